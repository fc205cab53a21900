"""What all sequence readers do: orders, labels, losses along the way, and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.estimators.compile import trace
from metasearch.learners.reader.sequence import MIXED, ORDER, SequenceReader, instance_accuracy
from metasearch.loaded import load
from metasearch.testing.phi import stored_phi

CLASSES = TaskSpec("classification", (4,), 3, 6, 6)
SMALL: dict[str, dict[str, Any]] = {
    "snail": {"attentions": [[4, 4], [4, 4]], "filters": 4, "length": 4},
    "transformer": {"width": 8, "heads": 2, "blocks": 2},
    "recurrent": {"hidden": 6},
    "mann": {"hidden": 6, "rows": 5, "word": 3, "heads": 2},
}
CAUSAL = {**SMALL, "transformer": {**SMALL["transformer"], "form": "causal"}}
SHIFTED = {"labels": "shifted", "loss": "sequence", "instances": 10}


def made(kind: str, spec: TaskSpec = CLASSES, **settings: Any) -> tuple[SequenceReader, Phi]:
    block = {"type": kind, **SMALL[kind], **settings}
    built = build("learner", block, "learner", spec=spec, choices={})
    assert isinstance(built, SequenceReader)
    phi = built.init(0).to("cpu", torch.float64)
    draw = torch.Generator().manual_seed(5)  # heads start near zero: move everything, so that differences are seen
    moved = {
        name: one + 0.2 * torch.randn(one.shape, generator=draw, dtype=torch.float64)
        for name, one in phi.tensors.items()
    }
    return built, phi.replace(tensors=moved)


def episode(ways: int = 3, shots: int = 2, queries: int = 2, tasks: int = 2) -> Task:
    draw = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(each).expand(tasks, -1)
        return Batch(torch.randn(tasks, ways * each, 4, generator=draw, dtype=torch.float64), y)

    return Task(batch(shots), batch(queries), np.arange(tasks))


def answers(learner: SequenceReader, phi: Phi, support: Batch, x: torch.Tensor) -> torch.Tensor:
    return learner.adapt(phi, support, 0)(x)


def test_a_set_transformer_does_not_depend_on_the_order_and_a_causal_one_does() -> None:
    task = episode()
    turned = Batch(task.support.x.flip(1), task.support.y.flip(1))
    for form, same in (("set", True), ("causal", False)):
        learner, phi = made("transformer", form=form)
        before, after = (answers(learner, phi, one, task.query.x) for one in (task.support, turned))
        assert torch.allclose(before, after, rtol=1e-10, atol=1e-12) == same


@pytest.mark.parametrize("kind", SMALL)
def test_queries_do_not_see_each_other(kind: str) -> None:
    learner, phi = made(kind)
    task = episode()
    together = answers(learner, phi, task.support, task.query.x)
    for index in range(6):
        alone = answers(learner, phi, task.support, task.query.x[:, index : index + 1])
        torch.testing.assert_close(alone[:, 0], together[:, index])


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("shifted", [True, False])
def test_the_loss_in_training_by_hand(kind: str, shifted: bool) -> None:
    """Tokens written out one by one, the whole stack run on them, and the loss taken where the setting says."""
    settings = SHIFTED if shifted else {"labels": "paired", "loss": "query", "instances": 0}
    learner, phi = made(kind, **{**CAUSAL[kind], **settings})
    task = episode()
    drawn = learner.drawn(task, 0)
    losses = learner.evaluate(phi, task, 0)
    for t in range(2):
        if shifted:
            x, y = torch.cat([task.support.x, task.query.x], 1)[t], torch.cat([task.support.y, task.query.y], 1)[t]
            order = drawn[MIXED][t].tolist()
            assert sorted(order) == list(range(12))
            tokens, label = [], torch.zeros(3, dtype=torch.float64)
            for place in order:
                tokens.append(torch.cat([x[place], label]))
                label = torch.eye(3, dtype=torch.float64)[y[place]]
            hidden = learner.hidden(phi, torch.stack(tokens)[None])[0]
            expected = torch.nn.functional.cross_entropy(learner.head(phi, hidden)[0], y[order])
        else:
            tokens = []
            for place in drawn[ORDER][t].tolist():
                one_hot = torch.eye(3, dtype=torch.float64)[task.support.y[t, place]]
                tokens.append(torch.cat([task.support.x[t, place], one_hot]))
            each = []
            for x, y in zip(task.query.x[t], task.query.y[t], strict=True):
                query = torch.cat([x, torch.zeros(3, dtype=torch.float64)])
                hidden = learner.hidden(phi, torch.stack([*tokens, query])[None])[0]
                each.append(torch.nn.functional.cross_entropy(learner.head(phi, hidden)[0, -1], y))
            expected = torch.stack(each).mean()
        torch.testing.assert_close(losses.objective[t], expected)


def test_orders_come_from_each_task_s_own_seed_and_the_fixed_order_outside_training_does_not() -> None:
    learner, phi = made("recurrent")
    task = episode(tasks=3)
    drawn = learner.drawn(task, 0)[ORDER]
    assert len({tuple(one) for one in drawn.tolist()}) == 3
    alone = Task(
        Batch(task.support.x[1:2], task.support.y[1:2]),
        Batch(task.query.x[1:2], task.query.y[1:2]),
        task.seeds[1:2],
    )
    assert torch.equal(learner.drawn(alone, 0)[ORDER], drawn[1:2])
    found = learner.evaluate(phi, task, 0, train=False).query
    other = Task(task.support, task.query, task.seeds + 100)
    assert torch.equal(learner.evaluate(phi, other, 0, train=False).query, found)
    assert not torch.equal(learner.evaluate(phi, other, 0).query, learner.evaluate(phi, task, 0).query)


@pytest.mark.parametrize("kind", ["recurrent", "mann"])
def test_a_recorded_graph_takes_its_orders_as_inputs(kind: str) -> None:
    """Recorded on some tasks and run on others, whose orders differ, it must give their numbers."""
    learner, phi = made(kind, **SHIFTED)
    assert learner.traceable
    first, second = (Task(one.support, one.query, one.seeds + 40 * k) for k, one in enumerate([episode(), episode()]))
    names = sorted(learner.drawn(first, 0))

    def objective(flat: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        info = dict(zip(names, flat[4:], strict=True))
        task = Task(Batch(*flat[:2]), Batch(*flat[2:4]), first.seeds, info)
        losses = learner.evaluate(phi, task, 0)
        return (losses.objective, *losses.metrics.values())

    def inputs(task: Task) -> list[torch.Tensor]:
        drawn = learner.drawn(task, 0)
        return [task.support.x, task.support.y, task.query.x, task.query.y, *(drawn[name] for name in names)]

    graph = trace(objective, inputs(first))
    found, expected = graph(*inputs(second)), learner.evaluate(phi, second, 0)
    torch.testing.assert_close(found[0], expected.objective)
    assert not torch.allclose(found[0], learner.evaluate(phi, first, 0).objective)
    for one, metric in zip(found[1:], expected.metrics.values(), strict=True):
        torch.testing.assert_close(one, metric)


def test_accuracy_by_instance_counts_examples_of_each_class() -> None:
    y = torch.tensor([[0, 0, 1, 0, 1, 1], [1, 0, 1, 0, 1, 0]])
    correct = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0]]).bool()
    found = instance_accuracy(correct, y, 2, 2)
    assert set(found) == {"accuracy_1", "accuracy_2"}
    assert found["accuracy_1"].tolist() == [0.5, 0.0]
    assert found["accuracy_2"].tolist() == [1.0, 0.5]


def test_other_shots_than_in_training_are_read() -> None:
    for kind in SMALL:
        learner, phi = made(kind)
        for shots in (1, 4):
            task = episode(shots=shots)
            assert torch.isfinite(learner.evaluate(phi, task, 0, train=False).query).all()


def test_a_capacity_serves_fewer_classes_and_never_names_those_beyond() -> None:
    _, phi = made("transformer", capacity=5)
    for ways in (2, 5):
        spec = TaskSpec("classification", (4,), ways, 2 * ways, 2 * ways)
        learner, fresh = made("transformer", spec, capacity=5)
        assert {name: one.shape for name, one in fresh.tensors.items()} == {
            name: one.shape for name, one in phi.tensors.items()
        }
        task = episode(ways)
        assert answers(learner, phi, task.support, task.query.x).shape == (2, 2 * ways, ways)
    with pytest.raises(ConfigError, match="capacity: 5 classes were learned at most, and these tasks have 6"):
        made("transformer", TaskSpec("classification", (4,), 6, 6, 6), capacity=5)


@pytest.mark.parametrize("kind", ["snail", "transformer", "recurrent"])
def test_standardized_features_are_those_of_the_support_set_by_hand(kind: str) -> None:
    plain, phi = made(kind)
    learner, _ = made(kind, standardize=True)
    task = episode()
    origin = task.support.x.mean(1, keepdim=True)
    unit = ((task.support.x - origin) ** 2).mean((1, 2), keepdim=True).add(1e-5).sqrt()
    support, query = (Batch((one.x - origin) / unit, one.y) for one in (task.support, task.query))
    torch.testing.assert_close(answers(learner, phi, task.support, task.query.x), answers(plain, phi, support, query.x))
    found, expected = learner.evaluate(phi, task, 0), plain.evaluate(phi, Task(support, query, task.seeds), 0)
    torch.testing.assert_close(found.objective, expected.objective)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"standardize: needs the whole support set before its first example"):
        made("mann", standardize=True, labels="shifted")
    with pytest.raises(ConfigError, match=r"labels: must be shifted for predictions along the sequence"):
        made("recurrent", loss="sequence")
    with pytest.raises(ConfigError, match=r"labels: can be shifted only where the layers do not see the future"):
        made("transformer", labels="shifted")
    with pytest.raises(ConfigError, match=r"width: must be a multiple of heads \(3\), got 8"):
        made("transformer", heads=3)
    with pytest.raises(UnsupportedError, match=r"Snail reads labelled examples; these tasks are of kind 'control'"):
        made("snail", TaskSpec("control", (4,), 3, 6, 6))
    learner, phi = made("snail")
    with pytest.raises(UnsupportedError, match="steps: Snail reads the support set in one pass"):
        learner.adapt(phi, episode().support, 0, steps=3)


@pytest.mark.parametrize("kind", SMALL)
def test_a_stored_phi_classifies(tmp_path: Path, kind: str) -> None:
    """fit, predict, and the same classes as the learner itself; another number of classes is refused in words."""
    learned = load(stored_phi(tmp_path / "phi", learner={"type": kind, **SMALL[kind]}, spec=CLASSES))
    task = episode(tasks=1)
    x, queries = task.support.x[0].numpy(), task.query.x[0].numpy()
    names = np.array(["cat", "dog", "owl"])
    few = learned.classifier().fit(x, names[task.support.y[0]])
    support = Batch(task.support.x.float(), task.support.y)
    expected = learned.learner().adapt(learned.phi, support, 0)(task.query.x.float())
    assert few.predict(queries).tolist() == names[expected[0].argmax(-1)].tolist()
    np.testing.assert_allclose(few.predict_proba(queries), torch.softmax(expected[0], -1), atol=1e-6)
    assert learned.classifier().fit(x[:4], [0, 1, 2, 2]).predict(queries).shape == (6,)
    with pytest.raises(ArtifactError, match=r"another number of outputs needs new values for reader.*no inner loop"):
        learned.classifier().fit(x, [0, 0, 0, 1, 1, 1])
    with pytest.raises(ArtifactError, match="no network that could be handed out"):
        few.network_.module()


def test_a_stored_phi_with_a_capacity_takes_any_number_of_classes_up_to_it(tmp_path: Path) -> None:
    block = {"type": "snail", **SMALL["snail"], "capacity": 5}
    learned = load(stored_phi(tmp_path / "phi", learner=block, spec=CLASSES))
    x = episode(tasks=1).support.x[0].numpy()
    assert set(learned.classifier().fit(x, [0, 0, 0, 1, 1, 1]).predict(x)) <= {0, 1}
    assert learned.classifier().fit(x, [0, 1, 2, 3, 4, 4]).predict_proba(x).shape == (6, 5)
    with pytest.raises(ArtifactError, match="capacity: 5 classes were learned at most, and these tasks have 6"):
        learned.classifier().fit(x, range(6))
