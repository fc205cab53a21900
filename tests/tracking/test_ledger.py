import math
from pathlib import Path
from typing import Any

import pytest

from metasearch.tracking.journal import Journal, Record
from metasearch.tracking.ledger import MAX_VALUE_CHARACTERS, Ledger, flatten, metric_name, param_value

Event = tuple[str, dict[str, Any]]


def ask(*ids: int, step: int = 0) -> Event:
    return "ask", {
        "step": step,
        "proposals": [{"id": id, "seed": 10 + id, "choices": {"rate": 0.1 * id}} for id in ids],
    }


def evaluation(id: int, L: float = 1.0, status: str = "ok", **fields: Any) -> Event:
    return "evaluation", {"id": id, "step": 0, "status": status, "L": L, "objective": L, "metrics": {}, **fields}


def report(id: int, step: int, L: float) -> Event:
    return "report", {"id": id, "step": step, "metrics": {"L": L}, "checkpoint": None}


@pytest.fixture
def records(tmp_path: Path) -> Any:
    def write(*events: Event) -> list[Record]:
        with Journal.open(tmp_path / "journal.jsonl") as journal:
            return [
                journal.append(type_, **fields) for type_, fields in (("start", {"run": "r", "name": "n"}), *events)
            ]

    return write


def read_in(records: list[Record], **options: Any) -> Ledger:
    ledger = Ledger(**options)
    for record in records:
        ledger.add(record)
    return ledger


def rows(ledger: Ledger) -> list[tuple[str, float, int]]:
    assert ledger.parent is not None
    return [(row.name, row.value, row.step) for row in ledger.parent.rows]


def test_a_gradient_step_shows_loss_objective_metrics_and_gradient_norm(records: Any) -> None:
    step = {"id": 0, "step": 7, "status": "ok", "L": 0.5, "objective": 0.25, "metrics": {"accuracy": 0.9}}
    ledger = read_in(
        records(
            ("ask", {"step": 7, "proposals": [{"id": 0, "seed": 1, "choices": {}}]}),
            ("evaluation", {**step, "gradient": {"norm": 2.0, "hash": "x"}}),
        )
    )
    assert rows(ledger) == [("L", 0.5, 7), ("objective", 0.25, 7), ("accuracy", 0.9, 7), ("gradient_norm", 2.0, 7)]
    assert ledger.children == {}
    assert ledger.evaluations == 1


def test_points_carry_the_time_of_their_record(records: Any) -> None:
    written = records(ask(0), evaluation(0))
    ledger = read_in(written)
    assert ledger.parent is not None
    assert {row.time_ms for row in ledger.parent.rows} == {int(written[-1]["time"] * 1000)}
    assert ledger.parent.started_ms == int(written[0]["time"] * 1000)
    assert ledger.children[0].started_ms == int(written[1]["time"] * 1000)
    assert ledger.children[0].ended_ms == int(written[2]["time"] * 1000)


@pytest.mark.parametrize(("select", "best"), [("accuracy", 0.8), ("L", 0.5)])
def test_validation_shows_its_intervals_and_the_best_by_what_selects(records: Any, select: str, best: float) -> None:
    fields = {
        "step": 5,
        "L": 0.5,
        "L_ci95": 0.1,
        "metrics": {"accuracy": 0.8},
        "metrics_ci95": {"accuracy": [0.7, 0.9]},
        "episodes": 9,
    }
    shown = rows(read_in(records(("validation", {**fields, "best": True})), select=select))
    assert shown == [
        ("validation/L", 0.5, 5),
        ("validation/accuracy", 0.8, 5),
        ("validation/L_ci95", 0.1, 5),
        ("validation/accuracy_ci95_low", 0.7, 5),
        ("validation/accuracy_ci95_high", 0.9, 5),
        ("best_validation", best, 5),
    ]


def test_test_figures_stand_beside_those_of_the_baselines(records: Any) -> None:
    figures = {
        "L": 0.5,
        "L_ci95": 0.1,
        "metrics": {"accuracy": 0.8},
        "metrics_ci95": {"accuracy": 0.02},
        "episodes": 600,
    }
    shown = rows(
        read_in(records(("test", {"name": "metasearch", **figures}), ("test", {"name": "nearest", **figures})))
    )
    assert ("test/accuracy", 0.8, 0) in shown
    assert ("test/accuracy_ci95", 0.02, 0) in shown
    assert ("baseline/nearest", 0.5, 0) in shown  # no metric selects here: L does


def test_an_infinite_value_is_a_tag_and_nan_a_point(records: Any) -> None:
    ledger = read_in(records(ask(0), evaluation(0, math.inf, "diverged", metrics={"accuracy": math.nan})))
    assert ledger.parent is not None
    assert ledger.parent.tags["metasearch.infinite.L"] == "inf at step 0"
    assert [name for name, value, _ in rows(ledger)] == ["accuracy"]
    assert math.isnan(ledger.parent.rows[0].value)
    assert ledger.children[0].tags["metasearch.infinite.L"] == "inf at step 0"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "ok"}, "FINISHED"),
        ({"status": "diverged", "L": math.nan}, "FAILED"),
        ({"status": "failed", "L": math.nan, "failure": {"kind": "user_error", "message": "boom"}}, "FAILED"),
        ({"status": "failed", "L": math.nan, "failure": {"kind": "preempted", "message": "node left"}}, "KILLED"),
    ],
)
def test_a_child_has_the_status_that_is_true(records: Any, fields: dict[str, Any], status: str) -> None:
    child = read_in(records(ask(0), evaluation(0, **fields))).children[0]
    assert child.status == status
    assert child.tags.get("metasearch.status", "ok") == fields["status"]
    failure = fields.get("failure")
    assert child.tags.get("metasearch.failure") == (f"{failure['kind']}: {failure['message']}" if failure else None)


def test_a_child_shows_its_choices_and_its_loss_by_step_of_its_reports(records: Any) -> None:
    child = read_in(records(ask(3), report(3, 1, 2.0), report(3, 2, 1.0), evaluation(3, 0.75))).children[3]
    assert child.params == {"phi.rate": str(0.1 * 3)}
    assert [(row.name, row.value, row.step) for row in child.rows] == [
        ("L", 2.0, 1),
        ("L", 1.0, 2),
        ("L", 0.75, 2),
        ("objective", 0.75, 2),
    ]


def test_open_children_are_killed_with_the_search_and_go_on_with_it(records: Any) -> None:
    interrupted = [ask(0, 1), evaluation(0), ("end", {"status": "interrupted", "reason": "Ctrl-C"})]
    written = records(*interrupted, ("event", {"event": "resume", "detail": {}}), evaluation(1))
    ledger = Ledger()
    statuses = []
    for record in written:
        ledger.add(record)
        assert ledger.parent is not None
        statuses.append((ledger.parent.status, [child.status for child in ledger.children.values()]))
    assert statuses[3:] == [
        ("KILLED", ["FINISHED", "KILLED"]),
        ("RUNNING", ["FINISHED", "RUNNING"]),
        ("RUNNING", ["FINISHED", "FINISHED"]),
    ]


@pytest.mark.parametrize(
    ("status", "shown"),
    [("finished", "FINISHED"), ("interrupted", "KILLED"), ("diverged", "FAILED"), ("failed", "FAILED")],
)
def test_the_search_ends_with_the_status_that_is_true(records: Any, status: str, shown: str) -> None:
    ledger = read_in(records(("end", {"status": status, "reason": "r"})))
    assert ledger.parent is not None
    assert ledger.parent.status == shown
    assert ("evaluations", 0.0, 0) in rows(ledger)


def test_the_best_of_a_search_over_choices_is_shown_in_the_parent(records: Any) -> None:
    ledger = read_in(
        records(
            ask(0, 1, 2, 3),
            evaluation(0, 2.0),
            evaluation(1, math.nan, "failed"),
            evaluation(2, 1.0),
            evaluation(3, 3.0),
        )
    )
    assert ledger.parent is not None
    assert [value for name, value, _ in rows(ledger) if name == "best_L"] == [2.0, 1.0]
    assert ledger.parent.tags["metasearch.best_proposal"] == "2"


def test_beyond_the_limit_only_the_best_proposals_are_kept(records: Any) -> None:
    written = records(ask(0, 1, 2, 3), evaluation(0, 2.0), evaluation(1, math.nan, "failed"), evaluation(2, 1.0))
    assert read_in(written).keep_best(4) == {0, 1, 2, 3}
    ledger = read_in(written)
    assert ledger.keep_best(2) == {0, 2}
    assert set(ledger.children) == {0, 2, 3}, "what is still open may become one of the best"


def test_without_children_nothing_is_kept_of_proposals(records: Any) -> None:
    ledger = read_in(records(ask(0), report(0, 1, 1.0), evaluation(0)), with_children=False)
    assert ledger.children == {}
    assert ledger.keep_best(0) == set()
    assert ("L", 1.0, 0) in rows(ledger)


def test_what_the_store_has_already_is_settled_for_children_that_are_there(records: Any) -> None:
    ledger = read_in(records(ask(0, 1), evaluation(0), evaluation(1)))
    ledger.settle({0})
    assert rows(ledger) == []
    assert ledger.changed == {1}
    assert ledger.children[0].rows == []
    assert ledger.children[1].rows != []


def test_records_that_mlflow_does_not_show_change_nothing(records: Any) -> None:
    ledger = read_in(records(("checkpoint", {"step": 1, "path": "x"}), ("of a later release", {})))
    assert rows(ledger) == []
    assert ledger.following == 3


def test_a_configuration_is_flattened_to_dotted_texts() -> None:
    config = {"tasks": {"ways": 5, "type": "omniglot"}, "list": [1, {"a": None}], "on": True, "none": None, "empty": {}}
    assert flatten(config) == {
        "tasks.ways": "5",
        "tasks.type": "omniglot",
        "list": '[1, {"a": null}]',
        "on": "true",
        "none": "null",
        "empty": "{}",
    }


def test_long_values_are_cut_visibly_to_what_mlflow_holds() -> None:
    assert param_value("x" * MAX_VALUE_CHARACTERS) == "x" * MAX_VALUE_CHARACTERS
    cut = param_value("x" * (MAX_VALUE_CHARACTERS + 1))
    assert len(cut) == MAX_VALUE_CHARACTERS
    assert cut.endswith("... (cut)")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("a.b/c-d e", "a.b/c-d e"), ("a[0]%é", "a_0___"), ("/../a//b/.", "a/b"), ("..", "_"), ("x" * 300, "x" * 250)],
)
def test_names_are_made_what_mlflow_allows(name: str, allowed: str) -> None:
    assert metric_name(name) == allowed
