import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import metasearch
from metasearch import api, cli, groups
from metasearch.core.errors import ExecutionError
from metasearch.display.figures import figure
from metasearch.tracking import RunDirectory
from metasearch.tracking.journal import read

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(metasearch.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
Captured = pytest.CaptureFixture[str]


def outcome(path: Path, status: str = "finished", reason: str = "") -> Any:
    directory = SimpleNamespace(path=path, name="demo")
    return SimpleNamespace(directory=directory, status=status, reason=reason, results=None, urls={})


def only_run(root: Path) -> RunDirectory:
    (path,) = (root / "runs").iterdir()
    return RunDirectory(path)


def test_check_prints_what_the_file_stands_for(sine: Path, capsys: Captured) -> None:
    assert cli.main(["check", str(sine), "--set", "searcher.lr=0.5"]) == 0
    text = capsys.readouterr().out
    assert "# sine: valid\n# phi: initialization, 13 numbers\n" in text
    tree = yaml.safe_load(text)
    assert tree["learner"]["type"] == "inner_loop"
    assert "recipe" not in tree["learner"]
    assert tree["searchers"]["searcher"]["lr"] == 0.5
    assert next(iter(tree)) == "name"


def test_check_prints_a_document_a_run_for_seeds(sine: Path, capsys: Captured) -> None:
    assert cli.main(["check", str(sine), "--set", "seeds=[3, 4]"]) == 0
    documents = [one for one in yaml.safe_load_all(capsys.readouterr().out) if one]
    assert [one["seed"] for one in documents] == [3, 4]


def test_check_names_what_is_chosen_and_by_whom(sine: Path, capsys: Captured) -> None:
    ranged = ["--set", "learner.slots.learning_rates.value={float: [0.01, 1], log: true}"]
    random = ["--set", "searcher={type: random}", "--set", "evaluation.estimator=value"]
    assert cli.main(["check", str(sine), *ranged, *random]) == 0
    assert "# phi: learner.slots.learning_rates.value, chosen by searcher\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.typ=sinusoid", "metasearch: tasks.typ"),
        ("learner.recipe=mamel", "did you mean 'maml'?"),
        ("budget", "an override reads key=value"),
    ],
)
def test_check_names_the_offending_key_in_one_line(sine: Path, override: str, said: str, capsys: Captured) -> None:
    assert cli.main(["check", str(sine), "--set", override]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_check_imports_neither_ray_nor_mlflow(sine: Path) -> None:
    source = (
        f"import sys; from metasearch.cli import main; assert main(['check', {str(sine)!r}]) == 0;"
        "print({'ray', 'mlflow', 'matplotlib'} & {name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stderr == "set()\n"


def test_the_options_of_run_are_overrides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def run(file: str, **settings: Any) -> Any:
        given.update(settings, file=file)
        return SimpleNamespace(path=tmp_path, outcomes=(), rows=(), metric="", status="finished")

    monkeypatch.setattr(api, "run", run)
    options = [
        "--workers",
        "3",
        "--gpus-per-worker",
        "0.5",
        "--address",
        "auto",
        "--seed",
        "7",
        "--name",
        "12",
        "--inline",
    ]
    assert cli.main(["run", "a.yaml", "--set", "budget.steps=2", *options, "--runs", "elsewhere"]) == 0
    assert given["set"] == [
        "budget.steps=2",
        "execution.workers=3",
        "execution.gpus_per_worker=0.5",
        'execution.address="auto"',
        "seed=7",
        'name="12"',
        'execution.type="inline"',
    ]
    assert (given["file"], given["runs"]) == ("a.yaml", "elsewhere")


def test_a_run_ends_with_its_figures_and_how_to_use_phi(sine: Path, tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["run", str(sine), "--inline"]) == 0
    text = capsys.readouterr().out
    run = only_run(tmp_path)
    assert f"searching sine in runs/{run.path.name}" in text
    assert "step 4: validation L" in text
    for part in ("this search", "random", f"runs/{run.path.name}/phi", "import metasearch as ms", "ms.load("):
        assert part in text
    results = run.read_results()
    assert results is not None
    assert results["test"]["episodes"] == 4


def test_a_run_can_be_evaluated_replayed_extended_reported_and_exported(
    sine: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert cli.main(["run", str(sine), "--inline"]) == 0
    run = only_run(tmp_path)
    results = run.read_results()
    assert results is not None
    capsys.readouterr()

    assert cli.main(["evaluate", run.id]) == 0
    evaluated = capsys.readouterr().out
    assert "4 episodes of split 'test', seed 0, 3 inner steps" in evaluated
    assert figure("L", results["test"]["L"], results["test"]["L_ci95"]) in evaluated

    assert cli.main(["evaluate", run.id, "--steps", "0,3", "--baselines"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("L on 4 episodes of split 'test', seed 0")
    assert lines[1].split() == ["inner", "steps", "0", "3"]
    assert lines[2].endswith(figure("L", results["test"]["L"], results["test"]["L_ci95"]))
    assert [line.split()[0] for line in lines[2:-1]] == ["phi", "random"]

    assert cli.main(["replay", run.id, "--evaluation", "3"]) == 0
    assert capsys.readouterr().out.endswith("equal bit for bit\n")
    assert cli.main(["replay", run.id, "--evaluation", "99"]) == 2
    assert "it has 4, counted from 0" in capsys.readouterr().err

    assert cli.main(["extend", run.id, "--set", "budget.steps=6"]) == 0
    assert "resuming sine from step 4" in capsys.readouterr().out
    assert sum(one["type"] == "evaluation" for one in read(run.journal_path)) == 6
    assert cli.main(["extend", run.id, "--set", "seed=6"]) == 2
    assert "budget only" in capsys.readouterr().err


def test_a_dry_run_times_a_step_and_records_nothing(sine: Path, tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["run", str(sine), "--inline", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "one step  " in text
    assert "for 4 steps" in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("status", "code"), [("interrupted", 130), ("diverged", 1), ("failed", 1)])
def test_the_exit_status_says_how_a_run_ended(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setattr(api, "resume", lambda *_, **__: outcome(tmp_path, status))
    assert cli.main(["resume", "demo"]) == code
    assert f"demo: {status}" in capsys.readouterr().out


def test_a_search_that_fails_says_where_its_record_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sine: Path, capsys: Captured
) -> None:
    def failing(file: str, *, listener: Any, **_: Any) -> Any:
        from metasearch.resolution import load

        listener.on_start(RunDirectory(tmp_path / "runs" / "one"), load(file), {})
        raise ExecutionError("the worker died")

    monkeypatch.setattr(api, "run", failing)
    assert cli.main(["run", str(sine)]) == 1
    error = capsys.readouterr().err
    assert "its record is in runs/one; go on with\n    metasearch resume runs/one\n" in error
    assert error.endswith("metasearch: the worker died\n")


def test_a_group_ends_with_its_table(sine: Path, capsys: Captured) -> None:
    assert cli.main(["run", str(sine), "--inline", "--set", "seeds=[0, 1]", "--set", "test.baselines=[]"]) == 0
    assert "± is a 95 % interval over seeds" in capsys.readouterr().out
    (path,) = Path("runs").iterdir()
    assert groups.is_group(path)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(sine: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metasearch", "run", str(sine), "--inline", "--set", "budget.steps=1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    run = only_run(tmp_path)
    assert process.returncode == 130
    assert "stopping after the step in flight; press Ctrl-C again" in text
    assert f"    metasearch resume runs/{run.path.name}\n" in text
    records = read(run.journal_path)
    assert [one["type"] for one in records[-2:]] == ["checkpoint", "end"]
    assert records[-1]["status"] == "interrupted"
    steps = sum(one["type"] == "evaluation" for one in records)
    assert records[-2]["step"] == steps
