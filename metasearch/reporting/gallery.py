"""Which plots a run has, in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from metasearch.core.files import from_json
from metasearch.reporting.charts import choice_slices, final_figures, is_drawing, stored_series
from metasearch.reporting.curves import best_so_far, gradient_norm, learning_curves, training_runs
from metasearch.reporting.episodes import draw_episode, load_episodes
from metasearch.reporting.history import History
from metasearch.reporting.landscape import (
    contours,
    done_proposals,
    found_schedule,
    importance_bars,
    importances,
    objectives_of,
    parallel_coordinates,
    pareto,
)
from metasearch.reporting.style import Plot

__all__ = ["gallery", "stored_json"]

_EPISODES = 3
_ENOUGH = 10  # proposals from which something about the space can be seen
_ALONG = {"steps": "outer steps", "seconds": "time", "tasks": "tasks seen", "evaluations": "evaluations"}
_ABOUT_CURVES = (
    "Thin line: mean over the tasks of one evaluation, and its running mean. Validation is on held-out tasks, always "
    "the same; φ is selected by it. Crosses at the bottom: evaluations that diverged."
)


def gallery(history: History) -> list[Plot]:
    """All plots that the run has something to show for."""
    return [*_summary(history), *_progress(history), *_choices(history), *_episodes(history), *_stored(history)]


def stored_json(history: History) -> list[tuple[str, Any, bool]]:
    """JSON files in the run's ``figures``: name, content, and whether it can be drawn; a damaged file is left out."""
    found = []
    for path in sorted((history.path / "figures").glob("*.json")):
        try:
            content = from_json(path.read_bytes())
        except ValueError:
            content = f"{path.name} is not JSON"
        found.append((path.stem, content, is_drawing(content)))
    return found


def _summary(history: History) -> Iterator[Plot]:
    comparable = [one for one in history.tests if history.metric in one.values]
    if len(comparable) + bool(history.paper) > 1 and comparable:
        yield Plot("final", "Final test figures with 95 % intervals", partial(final_figures, history))


def _progress(history: History) -> Iterator[Plot]:
    series, searches_choices = history.evaluations, bool(history.proposals)
    gradients = "gradient norm" in series.values
    if len(history.validations) or (len(series) and (gradients or not searches_choices)):
        for axis in ("steps", "seconds", "tasks"):
            title = f"Learning curves by {_ALONG[axis]}"
            yield Plot(f"curves-{axis}", title, partial(learning_curves, history, axis), _ABOUT_CURVES)
    if gradients:
        caption = "Norm of the mean gradient of the objective with respect to φ."
        yield Plot("gradient-norm", "Gradient norm by outer step", partial(gradient_norm, history), caption)
    if len(series) and searches_choices and not gradients:
        for axis in ("evaluations", "seconds", "tasks"):
            title = f"Best L so far by {_ALONG[axis]}"
            caption = "Each point is a proposal; the worst fifth may lie above the picture."
            yield Plot(f"best-so-far-{axis}", title, partial(best_so_far, history, axis), caption)


def _choices(history: History) -> Iterator[Plot]:
    if history.reports:
        yield Plot(
            "training-runs", "Training runs by budget", partial(training_runs, history), "Reports of each training run."
        )
    done = done_proposals(history)
    objectives = objectives_of(history)
    if objectives is not None and len(done) >= 3:
        caption = "Each point is a proposal; nothing beats the orange ones in every objective."
        yield Plot("pareto", "Compromises between the objectives", partial(pareto, history, objectives), caption)
    if (history.results.get("selected") or {}).get("schedule"):
        caption = "What the best member of the population was trained with, from start to end."
        yield Plot("schedule", "The schedule that was found", partial(found_schedule, history), caption)
    if len(done) >= 3:
        caption = "L(φ) against each choice, over all proposals; the best is ringed."
        yield Plot("slices", "L against each choice", partial(choice_slices, history), caption)
    if len(done) >= _ENOUGH:
        yield from _landscape(history)


def _landscape(history: History) -> Iterator[Plot]:
    found, done = importances(history), done_proposals(history)
    if len(found) < 2:
        return
    caption = (
        "How much the best quarter of the proposals differs from all of them in each choice (PED-ANOVA); interactions "
        "are not seen."
    )
    yield Plot("importance", "Which choices matter", partial(importance_bars, history), caption)
    caption = "A line for each proposal, through its choices to its L(φ); orange is better."
    yield Plot("parallel", "Choices and L together", partial(parallel_coordinates, history), caption)
    numbers = [
        name
        for name in found
        if all(isinstance(one.choices.get(name, 0), int | float) and one.choices.get(name) is not True for one in done)
    ]
    if len(numbers) >= 2:
        caption = "Rank of L(φ) over pairs of numbers, a smoothed estimate: orange is better; the star is the best."
        yield Plot("contours", "L over pairs of choices", partial(contours, history), caption)


def _episodes(history: History) -> Iterator[Plot]:
    episodes = load_episodes(history.path / "figures" / "episodes.npz")
    if episodes is None:
        return
    for index in range(min(len(episodes), _EPISODES)):
        true = episodes.query_y[index]
        before, after = (float(np.mean(episodes.predictions[index, :, step] == true)) for step in (0, -1))
        steps = episodes.predictions.shape[-1] - 1
        caption = (
            f"Test episode {index}: {100 * before:.0f} % of all {len(true)} queries right before adaptation, "
            f"{100 * after:.0f} % after {steps} inner step{'s' if steps != 1 else ''}. Blue ✓: right after adaptation; "
            f"orange ✗: wrong. Grey: confidence in the last prediction."
        )
        yield Plot(f"episode-{index}", f"Adapted episode {index}", partial(draw_episode, episodes, index), caption)


def _stored(history: History) -> Iterator[Plot]:
    for name, content, drawn in stored_json(history):
        if drawn:
            title = str(content.get("title") or name)
            caption = str(content.get("caption") or title)
            yield Plot(f"stored-{name}", title, partial(stored_series, content), caption)
