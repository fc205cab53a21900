import math
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metasearch.core.errors import JournalError
from metasearch.reporting import plots, write_report

VOID = {"meta", "input", "img", "br", "link"}
PNG = b"\x89PNG\r\n\x1a\n"


class Checker(HTMLParser):
    """Collects text, ids and what is loaded; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.loaded += [value] if name in ("src", "href", "xlink:href") else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in VOID else self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += [] if self.open and self.open[-1] == "style" else [data]


def checked(path: Path) -> tuple[str, str]:
    """The file and its visible text, after checking that it is well formed and loads nothing from elsewhere."""
    source = path.read_text("utf-8")
    checker = Checker()
    checker.feed(source)
    assert checker.open == []
    assert [one for one, count in Counter(checker.ids).items() if count > 1] == []
    assert all(one.startswith(("#", "data:")) for one in checker.loaded)
    assert {one[1:] for one in checker.loaded if one.startswith("#")} <= set(checker.ids)
    assert "<script" not in source
    return source, " ".join(" ".join(checker.text).split())


def test_a_finished_search_shows_its_figures_beside_baselines_and_paper(gradient_run, manifest) -> None:
    run = gradient_run(steps=120)
    manifest(run.path)
    path = write_report(run.path)
    assert path == run.path / "report.html"
    _, text = checked(path)
    assert "omniglot-5way-1shot finished" in text
    assert "this search 98.12 ± 0.21 0.0400 ± 0.0030 – 600 111,261 21 s" in text
    assert "random 61.23 ± 0.80 1.2000 ± 0.0030 −36.89 ± 0.83" in text  # sqrt(0.21² + 0.8²)
    assert "published: MAML 98.70 ± 0.40 – +0.58 ± 0.45" in text
    assert "strided convolutions" in text
    assert "Finn, Abbeel & Levine (2017), table 1" in text
    assert (
        "576 learned numbers in 1 tensor; initialization: tensors, update_rule: sgd; selected at outer step 1,100"
        in text
    )
    assert "resume step: 60" in text
    assert "metasearch replay omniglot-20260101-000000-abc123 --evaluation 119" in text
    assert "versions.torch 2.12.0" in text


def test_curves_stand_against_steps_time_and_tasks(gradient_run) -> None:
    source, text = checked(write_report(gradient_run(steps=120).path))
    for label in (
        "outer step",
        "time of driving (s)",
        "training tasks seen",
        "accuracy (%)",
        "L(φ), query loss",
        "‖∇L(φ)‖₂",
    ):
        assert label in text
    # Radio buttons, so that one is seen without any script.
    assert len(re.findall(r'<input type="radio"', source)) == 3
    assert len(re.findall(r'<input type="radio"[^>]* checked>', source)) == 1


def test_results_json_and_journal_give_the_same_table(gradient_run) -> None:
    run = gradient_run(steps=24)
    before = checked(write_report(run.path))[1]
    row = {"L": 0.04, "L_ci95": 0.003, "accuracy": 0.9812, "accuracy_ci95": 0.0021, "episodes": 600}
    rest = {"parameters": 111_261, "seconds": 21.0}
    others = {
        "random": (0.6123, 0.008, 1.2),
        "pretrained": (0.8855, 0.006, 0.4),
        "nearest_neighbour": (0.4512, 0.009, 0.6),
    }
    run.directory.write_results(
        {
            "test": row | rest,
            "baselines": {
                name: row | rest | {"accuracy": accuracy, "accuracy_ci95": ci95, "L": L}
                for name, (accuracy, ci95, L) in others.items()
            },
            "paper": run.config["paper"],
            "protocol": {"split": "test", "inner_steps": {"train": 1, "test": 3}},
        }
    )
    after = checked(write_report(run.path))[1]
    table = slice(before.index("difference to this search"), before.index("Figures are means"))
    assert before[table] in after
    assert "inner_steps.test 3" in after


def test_a_search_over_choices_ranks_its_proposals_and_marks_bad_ones(choice_run) -> None:
    run = choice_run(60)
    source, text = checked(write_report(run.path))
    assert "rates-by-tpe interrupted" in text
    losses = [float(value) for value in re.findall(r'class="ok">.*?<td class="number">([\d.]+)</td>', source)]
    assert len(losses) > 30
    assert losses == sorted(losses)
    assert '<tr class="failed">' in source
    assert '<tr class="diverged">' in source
    assert "user_error shapes <3> & <4> do not fit 3 7" in text
    assert "best so far" in text
    assert 'title="learner.slots.learning_rates.value">learning_rates.value' in source


def test_the_best_fifty_of_many_proposals_are_listed_with_some_bad_ones(choice_run) -> None:
    source, text = checked(write_report(choice_run(200).path))
    assert len(re.findall(r'<tr class="(?:ok|failed|diverged|open)">', source)) == 50
    assert re.search(r"50 of 201 proposals \(\d+ ok, \d+ diverged, 10 failed, 1 open\)", text)


def test_a_run_that_has_not_begun_has_a_report(make) -> None:
    run = make("early")
    run.journal.close()
    run.directory.journal_path.unlink()
    _, text = checked(write_report(run.path))
    assert "omniglot-5way-1shot new" in text or "early new" in text
    assert "Configuration" in text
    assert plots(run.path) == {}


def test_a_run_with_its_start_only_has_a_report(make) -> None:
    run = make()
    run.start()
    _, text = checked(write_report(run.path))
    assert "interrupted" in text


def test_a_run_in_progress_is_called_running(make) -> None:
    run = make()
    run.start()
    run.evaluation(0, 1.0)
    with run.directory.lock():
        _, text = checked(write_report(run.path))
    assert "omniglot-5way-1shot running" in text
    assert "of 1,200 planned" in text


def test_the_driver_that_ends_a_run_may_write_its_report(gradient_run) -> None:
    run = gradient_run(steps=24)
    with run.directory.lock():
        _, text = checked(write_report(run.path))
    assert "omniglot-5way-1shot finished" in text


def test_a_single_evaluation_and_a_single_validation_can_be_shown(make) -> None:
    run = make()
    run.start()
    run.evaluation(0, 0.7, metrics={"accuracy": 0.5}, norm=1.0)
    run.validation(1, 0.6, 0.55)
    _, text = checked(write_report(run.path))
    assert "best validation accuracy (%) 55.00 ± 0.70" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1e-300, 0.0])
def test_values_that_cannot_be_drawn_do_no_harm(make, value: float) -> None:
    run = make()
    run.start()
    for step in range(40):
        run.evaluation(
            step, value, "ok" if math.isfinite(value) else "diverged", norm=value, metrics={"accuracy": value}
        )
    run.validation(40, value, value, best=False)
    _, text = checked(write_report(run.path))
    assert "outer step" in text


def test_only_nan_in_a_search_over_choices_does_no_harm(make) -> None:
    run = make(validation=None)
    run.start()
    for id in range(4):
        run.ask(id, {"lr": 0.1 * id})
        run.evaluation(id, math.nan, "diverged", diverged=[0])
    _, text = checked(write_report(run.path))
    assert "diverged on 1 of 32 tasks" in text


def test_ten_thousand_evaluations_make_a_small_file(gradient_run) -> None:
    run = gradient_run(steps=10_000)
    path = write_report(run.path)
    assert path.stat().st_size < 3_000_000
    assert "10,000" in checked(path)[1]


def test_names_and_messages_are_escaped(make) -> None:
    evil = '<script>alert("x")</script>'
    run = make(description=evil, tasks={"type": evil})
    run.start()
    for id in range(4):
        run.ask(id, {f"a.{evil}": evil, "$x_1$": id})
        run.evaluation(id, 1.0 + id)
    run.evaluation(4, math.nan, "failed", failure={"kind": "user_error", "message": evil})
    run.journal.append("event", event=evil, detail={evil: evil})
    run.test(evil, 0.5)
    run.end(reason=evil)
    source, text = checked(write_report(run.path))
    assert evil in text
    assert "alert" in source


def test_training_runs_are_drawn_by_budget(make) -> None:
    run = make(validation=None, learner={"type": "training"})
    run.start()
    for id in range(3):
        run.ask(id, {"lr": 0.1 * (id + 1)})
        for epoch in range(1, 4):
            metrics = {"accuracy": 0.2 * epoch, "L": 1 / epoch + id}
            run.journal.append("report", id=id, step=epoch, metrics=metrics, checkpoint=None)
        run.evaluation(id, 1 / 3 + id)
    _, text = checked(write_report(run.path))
    assert "best proposal (0)" in text
    assert "reported step (budget units)" in text


def test_stored_figures_are_shown(gradient_run, episodes) -> None:
    run = gradient_run(steps=24)
    episodes(run.path)
    folder = run.path / "figures"
    (folder / "adaptation.json").write_text(
        '{"title": "By step", "x_label": "inner step", "y_label": "accuracy (%)", '
        '"series": [{"name": "φ", "x": [0, 1, 2], "y": [20, "nan", 98], "ci95": [1, 1, 1]}]}'
    )
    (folder / "other.json").write_text('{"a<b": 1}')
    (folder / "broken.json").write_text("{")
    (folder / "small.png").write_bytes(PNG + b"1")
    (folder / "large.png").write_bytes(PNG + bytes(2_000_000))
    source, text = checked(write_report(run.path))
    assert "inner step" in text
    assert '"a<b": 1' in text
    assert "broken.json is not JSON" in text
    assert "large.png (2.0 MB) is left out" in text
    assert source.count("data:image/png;base64,") == 3  # two episodes and the small picture
    assert re.search(
        r"Test episode 0: \d+ % of all 15 queries right before adaptation, \d+ % after 3 inner steps", text
    )


def test_plots_are_png_by_name(gradient_run, episodes) -> None:
    run = gradient_run(steps=40)
    episodes(run.path)
    found = plots(run.path)
    assert list(found) == [
        "final",
        "curves-steps",
        "curves-seconds",
        "curves-tasks",
        "gradient-norm",
        "episode-0",
        "episode-1",
    ]
    assert all(content.startswith(PNG) for content in found.values())


def test_a_report_is_the_same_each_time(gradient_run) -> None:
    run = gradient_run(steps=24)
    first = write_report(run.path).read_bytes()
    assert write_report(run.path).read_bytes() == first


def test_only_the_report_is_written(gradient_run) -> None:
    run = gradient_run(steps=24)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    write_report(run.path)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {run.path / "report.html"}
    assert all(after[path] == content for path, content in before.items())


def test_a_damaged_journal_is_refused(gradient_run: Callable) -> None:
    run = gradient_run(steps=24)
    journal = run.directory.journal_path
    journal.write_bytes(journal.read_bytes().replace(b'"L":', b'"M":', 1))
    with pytest.raises(JournalError, match="damaged"):
        write_report(run.path)
