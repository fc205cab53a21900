"""The cluster file is checked as ``ray up`` checks it, short of starting anything.

Ray has no public way to do that, so its private one is used here and nowhere else.
"""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def check(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def start_commands(config: dict[str, Any]) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    assert prepared["head_node_type"] == "head"
    assert set(prepared["available_node_types"]) == {"head", "gpu_worker"}


@pytest.mark.parametrize(
    ("block", "key", "misspelt"),
    [
        ((), "idle_timeout_minutes", "idle_timeout_minute"),
        (("available_node_types", "gpu_worker"), "max_workers", "max_worker"),
        (("auth",), "ssh_user", "ssh_usr"),
    ],
)
def test_a_misspelt_key_is_refused(cluster: dict[str, Any], block: tuple[str, ...], key: str, misspelt: str) -> None:
    settings = cluster
    for name in block:
        settings = settings[name]
    settings[misspelt] = settings.pop(key)
    with pytest.raises(ValidationError, match=f"'{misspelt}'"):
        check(cluster)


def test_gpu_workers_cost_nothing_while_there_is_no_work(cluster: dict[str, Any]) -> None:
    types = check(cluster)["available_node_types"]
    assert types["gpu_worker"]["min_workers"] == 0
    assert 1 <= types["gpu_worker"]["max_workers"] <= cluster["max_workers"]
    assert types["gpu_worker"]["resources"]["GPU"] >= 1
    assert "GPU" not in types["head"]["resources"]
    assert not cluster["provider"]["cache_stopped_nodes"]


def test_nothing_listens_on_a_public_address(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    assert prepared["provider"]["use_internal_ips"] is True
    assert all(kind["node_config"]["SubnetIds"] for kind in prepared["available_node_types"].values())
    assert "0.0.0.0" not in yaml.safe_dump(prepared)
    (head,) = [command for command in start_commands(prepared) if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head


def test_every_node_starts_with_token_authentication(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    started = start_commands(prepared)
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in started)
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert not re.search(r"RAY_AUTH_TOKEN\s*[=:]", (ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_the_nodes_run_the_ray_that_is_tested_here(cluster: dict[str, Any]) -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{pins['ray']}-py311")
    (install,) = [command for command in cluster["setup_commands"] if "pip install" in command]
    assert "PIP_CONSTRAINT=constraints.txt" in install
    assert "[cluster]" in install
