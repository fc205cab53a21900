import itertools

import pytest

from metasearch.reporting.curves import best_so_far, gradient_norm, learning_curves
from metasearch.reporting.history import History


def labelled(figure):
    """Lines of all panels by label."""
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def test_the_best_so_far_never_rises_and_ends_at_the_best(choice_run) -> None:
    history = History(choice_run(60).path)
    y = labelled(best_so_far(history, "evaluations"))["best so far"].get_ydata()
    assert all(b <= a for a, b in itertools.pairwise(y))
    assert y[-1] == history.proposals[0].L


def test_diverged_and_failed_proposals_are_crosses_not_points(choice_run) -> None:
    history = History(choice_run(60).path)
    lines = labelled(best_so_far(history, "evaluations"))
    assert len(lines["diverged or failed"].get_xdata()) == int(history.bad.sum())


def test_curves_of_accuracy_are_in_percent_with_the_published_figure(gradient_run) -> None:
    history = History(gradient_run(steps=120).path)
    lines = labelled(learning_curves(history, "steps"))
    assert lines["published (test)"].get_ydata()[0] == pytest.approx(98.7)
    assert 40 < lines["validation, 95 % interval"].get_ydata()[0] < 100
    assert list(lines["selected φ"].get_xdata()) == [history.best_validation["step"]]
    assert list(lines["resumed"].get_xdata()) == [60, 60]


def test_long_runs_are_shown_in_minutes_or_hours(make) -> None:
    for last, unit in ((200.0, "s"), (1200.0, "min"), (7e4, "h")):
        run = make(f"long-{unit}")
        run.start()
        run.evaluation(0, 1.0)
        run.journal.now = last
        run.evaluation(1, 0.9)
        figure = learning_curves(History(run.path), "seconds")
        assert figure.axes[0].get_xlabel() == f"time of driving ({unit})"


def test_panels_side_by_side_share_their_steps(make) -> None:
    run = make()
    run.start()
    for step in range(10):
        run.evaluation(step, 1.0)
    run.validation(5, 0.9, 0.5)
    loss, accuracy = learning_curves(History(run.path), "steps").axes
    assert loss.get_xlim() == accuracy.get_xlim()


def test_a_gradient_norm_over_decades_is_logarithmic(make) -> None:
    run = make()
    run.start()
    for step in range(40):
        run.evaluation(step, 1.0, norm=10.0 ** (-step / 10))
    assert gradient_norm(History(run.path)).axes[0].get_yscale() == "log"


@pytest.mark.parametrize("steps", [60, 200])
def test_one_spike_does_not_flatten_a_curve(make, steps: int) -> None:
    run = make()
    run.start()
    for step in range(steps):
        run.evaluation(step, 1e12 if step == 50 else 1.0 + 0.001 * step)
    assert learning_curves(History(run.path), "steps").axes[0].get_ylim()[1] < 2
