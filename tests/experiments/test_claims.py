"""The claims about MAML: every part with a budget of next to nothing, and its measures against other ways to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import metasearch as ms
from metasearch.tracking.journal import read


@pytest.fixture(scope="module")
def claims(modules):
    return modules("claims")


@pytest.fixture(scope="module")
def plan(claims):
    return claims["setting"].Plan(scale=0.002, seeds=1)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def searched(claims, plan, out):
    """The inner loop that a search on sinusoids has learned, and the folder of its run."""
    store, tree = claims["jobs"].Store(out), claims["setting"].sines(plan, 0)
    return claims["course"].opened(store, tree, {"searched": tree}), store.searched(tree)


def test_a_course_is_what_tests_with_so_many_steps_find(searched) -> None:
    loop, folder = searched
    for steps, course in zip((0, 1, 3), loop.course("test", 30, [0, 1, 3]), strict=True):
        found = ms.evaluate(folder / "phi", episodes=30, steps=steps)
        assert course.mean() == pytest.approx(found["L"], rel=1e-6)
        assert 1.96 * course.std(ddof=1) / math.sqrt(30) == pytest.approx(found["L_ci95"], rel=1e-5)


def test_a_descent_goes_the_lengths_that_it_says_along_the_gradient(searched) -> None:
    loop, _ = searched
    found, own = loop.descent("test", 2, [0.0, 0.5])
    learner, task, _ = next(loop._tasks("test", 2))
    assert learner.adapted == tuple(loop.phi.part("initialization"))
    for one in range(2):
        start = loop.phi.part("initialization")
        theta = {name: value.clone().requires_grad_() for name, value in start.items()}

        def loss(values, batch, one=one):
            hidden = batch.x[one]
            for layer in ("layers.0", "layers.1"):
                hidden = F.linear(hidden, values[f"{layer}.weight"], values[f"{layer}.bias"]).relu()
            return F.mse_loss(F.linear(hidden, values["head.weight"], values["head.bias"]), batch.y[one])

        loss(theta, task.support).backward()
        norm = torch.cat([value.grad.flatten() for value in theta.values()]).norm()
        moved = {name: value - 0.5 * theta[name].grad / norm for name, value in start.items()}
        assert found[0, one] == pytest.approx(float(loss(start, task.query)), rel=1e-4)
        assert found[1, one] == pytest.approx(float(loss(moved, task.query)), rel=1e-4)
        assert own[one] == pytest.approx(0.01 * float(norm), rel=1e-4)


def test_steps_are_measured_one_by_one_and_gains_over_the_same_episodes(done, claims, plan, out) -> None:
    rows = done(claims, plan, out, "steps", {"panel": ["sines, 10-shot"], "inner": [1]})
    figures = [row["value"] for row in rows if row["what"] == "figure"]
    gains = [row["value"] for row in rows if row["what"] == "gain"]
    assert len(figures) == len(gains) == 21
    assert gains == pytest.approx(
        [figures[1] - one for one in figures], abs=1e-9
    )  # of squared errors: smaller is better
    best = int(np.argmin(figures))
    assert f"| best: gain on training's steps | {best} | {gains[best]:.3g} |" in (out / "steps.md").read_text()


def test_reach_says_after_how_many_steps_and_at_which_rate(done, claims, plan, out) -> None:
    learners = ["MAML", "pre-trained, fine-tuned"]
    rows = done(claims, plan, out, "reach", {"panel": ["sines, 10-shot"], "learner": learners})
    maml, other = (row for row in rows if row["what"] == "steps")
    assert maml["value"] <= 1
    assert "at a rate of 0." in other["note"]
    reached = [row["x"] for row in rows if row["learner"] == learners[1] and row["what"] == "figure"]
    assert reached == [0, 1, 2]
    assert len(list((out / "kept").glob("pretrained-*.safetensors"))) == 1


def test_away_is_measured_elsewhere_with_the_search_of_the_other_parts(done, claims, plan, out) -> None:
    learners = ["MAML, 1 step", "pre-trained, 10 steps"]
    rows = done(claims, plan, out, "away", {"panel": ["sines, amplitude up to"], "learner": learners, "x": [5.0, 15.0]})
    for near, far in (rows[:2], rows[2:]):
        assert near["value"] < 10.0  # half of squares of amplitudes up to 5; of those from 10 to 15 it is more
        assert far["value"] is None or far["value"] > 10.0
    (row,) = done(claims, plan, out, "away", {"panel": ["classes"], "learner": ["MAML, 1 step"], "x": [20]})
    assert 0 <= row["value"] <= 0.5


def test_support_compares_both_outer_losses_on_both_sets(done, claims, plan, out) -> None:
    rows = done(claims, plan, out, "support", {"panel": ["sines, 10-shot"]})
    assert len(rows) == 12
    for number in range(0, 12, 3):
        support, query, gap = (row["value"] for row in rows[number : number + 3])
        assert gap == pytest.approx(query - support)  # by how much the error on the support set is lower
    jobs = claims["parts"].support(plan)
    assert [job.given["tree"]["learner"]["along"] for job in jobs] == ["query", "support"] * 3
    assert [job.given["loss"] for job in jobs] == [False, False, True, True, True, True]


def test_descent_has_losses_and_their_falls_by_unit_length(done, claims, plan, out) -> None:
    rows = done(claims, plan, out, "descent", {"panel": ["sines, 10-shot"], "learner": ["MAML", "random"]})
    losses = {row["x"]: row["value"] for row in rows if (row["learner"], row["what"]) == ("random", "loss")}
    falls = {
        row["x"]: row["value"] for row in rows if (row["learner"], row["what"]) == ("random", "fall per unit length")
    }
    assert falls == pytest.approx({x: (losses[0.0] - value) / x for x, value in losses.items() if x})


def test_starts_are_random_or_from_rotation_prediction_with_and_without_maml(done, claims, plan, out) -> None:
    learners = ["self-supervised, fine-tuned", "self-supervised, MAML"]
    rows = done(claims, plan, out, "starts", {"learner": learners, "x": [None, 10]})
    assert [(row["learner"], row["x"]) for row in rows] == [(learners[0], 0), (learners[1], 10)]
    assert "at a rate of" in rows[0]["note"]
    (rotated,) = (out / "runs").glob("rotation-5way-*/*/phi")
    (started,) = (
        record["detail"]
        for path in (out / "runs").glob("maml-5way-*/*/journal.jsonl")
        for record in read(path)
        if record.get("event") == "initialization"
    )
    assert started["source"] == str(rotated)
    assert started["loaded"] == list(ms.load(rotated).phi.part("embedding"))


def test_a_task_that_diverged_is_not_averaged_away(claims) -> None:
    rows = [claims["parts"]._row(values, "test", 1) for values in ([1.0, 3.0], [1.0, math.nan])]
    assert (rows[0]["value"], rows[1]["value"]) == (2.0, None)
    assert rows[1]["note"] == "1 of 2 tasks diverged"


@pytest.mark.slow
def test_all_parts_run_with_one_command_and_go_on_where_they_were(claims, tmp_path, capsys) -> None:
    command = ["--out", str(tmp_path), "--scale", "0.002", "--seeds", "1"]
    claims["__main__"].main([*command, "--seconds", "1"])
    assert "the same command goes on" in capsys.readouterr().out
    claims["__main__"].main(command)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(claims["parts"].PARTS)
    capsys.readouterr()
    claims["__main__"].main(command)
    assert capsys.readouterr().out.count(": 0 jobs to do") == len(claims["parts"].PARTS)
