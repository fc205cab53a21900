"""What the README shows works as it is shown: its scripts run, its experiment files are valid, its commands exist."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metasearch import groups
from metasearch.cli.parser import parser
from metasearch.resolution import resolve
from metasearch.trees import override, read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def blocks(text: str, mark: str) -> list[tuple[str, str]]:
    """The code blocks that follow a comment ``<!-- mark: name -->``, by name (empty where it has none)."""
    return re.findall(rf"<!-- {mark}(?:: (\S+))? -->\n```\w+\n(.*?)```", text, re.DOTALL)


SCRIPTS, PRINTED = dict(blocks(README, "test")), dict(blocks(README, "prints"))


@pytest.mark.ray
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_readme_prints_what_the_readme_says(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SCRIPTS[name], "utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in PRINTED[name].splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert re.search(f"^{pattern}$", done.stdout, re.MULTILINE), f"{line!r} is not in:\n{done.stdout}"
    assert {path.name for path in tmp_path.iterdir()} - {name} in ({"mlflow.db", "mlruns", "runs"}, set())


@pytest.mark.parametrize("text", [text for _, text in blocks(README, "check")], ids=lambda text: text.split()[1])
def test_an_experiment_file_of_the_readme_is_valid(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(ROOT / "experiments" / "omniglot_maml.yaml", tmp_path)
    file = tmp_path / "file.yaml"
    file.write_text(text, "utf-8")
    tree = read(file)
    members = groups.expand(tree) if "seeds" in tree or "variants" in tree else {"": tree}
    for member in members.values():
        assert resolve(override(member, ["numerics.compile=never"]), tmp_path).file.name == tree["name"]


def test_the_readme_has_as_many_scripts_and_files_as_it_is_tested_for() -> None:
    assert set(SCRIPTS) == set(PRINTED) == {"lines.py", "learned.py", "sine.py"}
    assert len(blocks(README, "check")) == len(re.findall("```yaml", README)) == 4


def test_the_readme_names_commands_and_options_that_exist() -> None:
    (commands,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    lines = re.findall(r"^    metasearch (\w+)(.*)$", README, re.MULTILINE)
    assert len(lines) >= 10
    for command, rest in lines:
        words = rest.partition("#")[0].split()
        commands.choices[command].parse_args(words)
    named = set(re.findall(r"`metasearch (\w+)", README + CONTRIBUTING))
    assert named <= set(commands.choices)


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_lead_to_files(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_slot_of_the_contributing_guide_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metasearch import artifacts
    from metasearch.running import run

    ((name, text),) = blocks(CONTRIBUTING, "test")
    (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    tree = {
        "tasks": {"type": "sinusoid", "shots": 5, "queries": 5},
        "learner": {
            "recipe": "maml",
            "model": {"type": "mlp", "hidden": [8]},
            "steps": 2,
            "slots": {"learning_rates": {"type": "decaying:Decaying", "init": 0.01}},
        },
        "searcher": {"type": "gradient", "lr": 0.01},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 4, "shard": 2},
        "budget": {"steps": 3},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
    }
    outcome = run(resolve(tree, tmp_path), root=tmp_path / "runs")
    learned = artifacts.load(outcome.phi_path).phi.part("learning_rates")
    assert learned["rate"] != 0.01
    assert learned["factor"] != 1.0
