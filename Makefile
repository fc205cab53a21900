# `make help` lists the targets. Everything is installed into .venv, from nothing, with the versions in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= experiments/omniglot_maml.yaml
ARGS ?=
PROCESSES ?= 2

BIN := $(VENV)/bin
SMOKE := experiments/omniglot_maml.yaml

export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help search test lint style types imports doctest smoke unit format clean

help:  ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

search: $(VENV)/.search  ## run EXPERIMENT=experiments/omniglot_maml.yaml with further ARGS="..."
	@$(BIN)/metasearch run $(EXPERIMENT) $(ARGS)

test: lint doctest smoke unit  ## every check there is

lint: style types imports  ## style, types and imports

style: $(VENV)/.test  ## ruff: rules and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/.test  ## mypy
	@$(BIN)/mypy

imports: $(VENV)/.test  ## the direction of imports (.importlinter)
	@$(BIN)/lint-imports --no-logo

doctest: $(VENV)/.test  ## the examples in docstrings
	@$(BIN)/python -m pytest --quiet --doctest-modules metasearch

smoke: $(VENV)/.test  ## a search of two outer steps on a local Ray, tracked by MLflow in SQLite
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	root=$$PWD; metasearch=$(abspath $(BIN))/metasearch; \
	cd "$$folder"; \
	MLFLOW_TRACKING_URI="sqlite:///$$folder/mlflow.db" "$$metasearch" run "$$root/$(SMOKE)" \
		--set budget.steps=2 --set validation.episodes=8 --set test.episodes=8; \
	results=$$(find runs -name results.json); \
	[ -n "$$results" ] || { echo "the search left no results.json below runs/" >&2; exit 1; }

unit: $(VENV)/.test  ## pytest in PROCESSES=2 processes, with further ARGS="..."
	@$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder $(ARGS)

format: $(VENV)/.test  ## rewrite what ruff can rewrite
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:  ## remove the environment and caches; runs and records stay
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "metasearch needs Python 3.11 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.search: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing metasearch into $(VENV): minutes the first time"
	@$(BIN)/python -m pip install -qq --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing metasearch and its checks into $(VENV): minutes the first time"
	@$(BIN)/python -m pip install -qq --editable '.[test]'
	@touch $(VENV)/.search $@
