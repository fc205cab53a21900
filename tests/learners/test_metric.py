"""Metric learners against computations written by hand: loops over examples, torch's own layers, finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.learners.metric.context import Context
from metasearch.learners.metric.distances import Cosine, unit
from metasearch.learners.metric.matching import class_logits
from metasearch.learners.metric.verification import balanced_accuracy, roc_auc

LINEAR = {"type": "mlp", "hidden": []}
SMOOTH = {"type": "mlp", "hidden": [6], "activation": "tanh"}
CONV = {"type": "conv4", "filters": 3, "blocks": 2, "pool": "max", "head": "none"}


def learner(kind: str, shape: tuple[int, ...] = (4,), ways: int = 3, **settings: Any) -> Any:
    spec = TaskSpec("classification", shape, ways, 2 * ways, 3 * ways)
    return build("learner", {"type": kind, "features": 5, **settings}, "learner", spec=spec)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(shape: tuple[int, ...] = (4,), ways: int = 3, shots: int = 2, queries: int = 3, count: int = 2) -> Task:
    def batch(each: int, seed: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(each).expand(count, -1)
        return Batch(drawn(count, ways * each, *shape, seed=seed), y)

    return Task(batch(shots, 1), batch(queries, 2), np.arange(count))


def phi_of(made: Any, seed: int = 0) -> Phi:
    """A fresh phi in double precision, moved off its zeros."""
    phi = made.init(seed).to("cpu", torch.float64)
    return phi.replace(
        tensors={
            name: value + 0.2 * drawn(*value.shape, seed=index)
            for index, (name, value) in enumerate(phi.tensors.items())
        }
    )


def embedded(phi: Phi, x: Tensor, slot: str = "embedding") -> Tensor:
    """What the linear network makes of examples."""
    return x @ phi.tensors[f"{slot}.head.weight"].T + phi.tensors[f"{slot}.head.bias"]


class TestPrototypical:
    @pytest.mark.parametrize("distance", ["squared_euclidean", "cosine", "inner"])
    def test_equals_class_means_and_a_softmax_by_hand(self, distance: str) -> None:
        made = learner("prototypical", model=LINEAR, distance={"type": distance, "temperature": 0.5})
        phi, task = phi_of(made), tasks()
        found = made.evaluate(phi, task, 0)
        for t in range(2):
            z = embedded(phi, task.support.x[t])
            centres = [z[task.support.y[t] == k].mean(0) for k in range(3)]
            losses, right = [], []
            for x, y in zip(task.query.x[t], task.query.y[t], strict=True):
                q = embedded(phi, x)
                near = {
                    "squared_euclidean": lambda c, q=q: -((q - c) ** 2).sum(),
                    "cosine": lambda c, q=q: F.cosine_similarity(q, c, dim=0),
                    "inner": lambda c, q=q: q @ c,
                }[distance]
                scores = torch.stack([near(c) / 0.5 for c in centres])
                losses.append(-torch.log(scores.exp()[y] / scores.exp().sum()))
                right.append(float(scores.argmax() == y))
            torch.testing.assert_close(found.query[t], torch.stack(losses).mean())
            assert float(found.metrics["accuracy"][t]) == pytest.approx(np.mean(right))

    def test_classes_may_have_unequal_numbers_of_examples(self) -> None:
        made = learner("prototypical", model=LINEAR)
        phi, x, y = phi_of(made), drawn(1, 4, 4), torch.tensor([[2, 0, 1, 2]])
        z = embedded(phi, x)
        expected = torch.stack([z[0, 1], z[0, 2], (z[0, 0] + z[0, 3]) / 2])
        torch.testing.assert_close(made.prototypes(phi, z, y)[0][0], expected)

    @pytest.mark.parametrize("learned", [True, False])
    def test_squared_euclidean_is_a_linear_classifier_of_weights_2c_and_bias_minus_c_squared(
        self, learned: bool
    ) -> None:
        distance = {"type": "squared_euclidean", "temperature": 0.5, "learned": learned}
        made = learner("prototypical", model=LINEAR, distance=distance)
        phi, task = made.init(0).to("cpu", torch.float64), tasks(count=1)
        adapted = made.adapt(phi, task.support, 0)
        module = adapted.module()
        centres = made.prototypes(phi, embedded(phi, task.support.x), task.support.y)[0][0]
        torch.testing.assert_close(module.head.weight, 2 * centres / 0.5)
        torch.testing.assert_close(module.head.bias, -centres.square().sum(1) / 0.5)
        outputs, logits = adapted(task.query.x)[0], module(task.query.x[0])
        apart = logits - outputs  # |f(x)|^2, the same for all classes
        torch.testing.assert_close(apart, apart[:, :1].expand_as(apart), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits.softmax(-1), outputs.softmax(-1))

    def test_a_learned_temperature_is_part_of_phi_and_has_its_gradient(self) -> None:
        made = learner("prototypical", model=LINEAR, distance={"type": "cosine", "learned": True})
        phi, task = made.init(0).to("cpu", torch.float64), tasks()
        assert phi.tensors["distance.log_temperature"].exp() == pytest.approx(0.1)
        leaf = phi.tensors["distance.log_temperature"].requires_grad_()
        made.evaluate(phi, task, 0).query.sum().backward()
        assert leaf.grad is not None
        assert float(leaf.grad.abs()) > 1e-6

    def test_only_squared_euclidean_and_no_batch_statistics_become_a_module(self) -> None:
        task = tasks(count=1)
        made = learner("prototypical", model=LINEAR, distance="cosine")
        with pytest.raises(ArtifactError, match="only squared Euclidean"):
            made.adapt(phi_of(made), task.support, 0).module()
        made = learner("prototypical", model={**SMOOTH, "batch_norm": True})
        with pytest.raises(ArtifactError, match="normalizes by the batch at hand"):
            made.adapt(phi_of(made), task.support, 0).module()


class TestMatching:
    @pytest.mark.parametrize("shared", [True, False])
    def test_equals_labels_weighted_by_attention_by_hand(self, shared: bool) -> None:
        made = learner("matching", model=LINEAR, distance={"type": "cosine", "temperature": 0.2}, shared=shared)
        phi, task = phi_of(made), tasks(shots=2)
        outputs = made.adapt(phi, task.support, 0)(task.query.x)
        attention = made.attention(phi, task.support, task.query.x)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 9, dtype=torch.float64))
        for t in range(2):
            g = embedded(phi, task.support.x[t])
            for j, x in enumerate(task.query.x[t]):
                f = embedded(phi, x, "embedding" if shared else "query_embedding")
                weights = torch.stack([(F.cosine_similarity(f, one, dim=0) / 0.2).exp() for one in g])
                weights = weights / weights.sum()
                torch.testing.assert_close(attention[t, j], weights)
                shares = torch.stack([weights[task.support.y[t] == k].sum() for k in range(3)])
                torch.testing.assert_close(outputs[t, j].softmax(-1), shares)

    def test_networks_of_its_own_for_queries_start_from_other_values(self) -> None:
        phi = learner("matching", model=LINEAR, shared=False).init(0)
        assert not torch.equal(phi.tensors["embedding.head.weight"], phi.tensors["query_embedding.head.weight"])

    def test_sums_of_probabilities_are_exact_where_they_underflow(self) -> None:
        similarities = torch.tensor([[[0.0, -1.0, -400.0, -401.0, -5000.0]]], requires_grad=True)  # float32
        labels = torch.tensor([[0, 0, 1, 1, 2]])
        logits = class_logits(similarities, labels, 3)
        wide = similarities.detach().double()
        expected = torch.stack([wide[0, 0, :2].logsumexp(0), wide[0, 0, 2:4].logsumexp(0), wide[0, 0, 4]])
        torch.testing.assert_close(logits[0, 0].double(), expected, rtol=1e-6, atol=1e-6)
        F.cross_entropy(logits[0], torch.tensor([2])).backward()
        first = wide[0, 0, :2].softmax(0)
        expected = torch.tensor([*first.tolist(), 0.0, 0.0, -1.0])
        torch.testing.assert_close(similarities.grad[0, 0], expected, rtol=1e-5, atol=1e-6)

    def test_a_class_without_examples_is_never_chosen_and_gives_no_nan(self) -> None:
        similarities = drawn(1, 2, 3).requires_grad_()
        logits = class_logits(similarities, torch.tensor([[0, 2, 2]]), 3)
        assert logits.softmax(-1)[..., 1].eq(0).all()
        F.cross_entropy(logits[0], torch.tensor([0, 2])).backward()
        assert torch.isfinite(similarities.grad).all()

    def test_support_vectors_in_context_are_those_of_torchs_bidirectional_lstm(self) -> None:
        context, d = Context(Context.Config(steps=1), 5), 5
        values = {name: value.double() for name, value in context.init(3).items()}
        lstm = torch.nn.LSTM(d, d, batch_first=True, bidirectional=True).double()
        with torch.no_grad():
            for name, ending in (("forward", "l0"), ("backward", "l0_reverse")):
                getattr(lstm, f"weight_ih_{ending}").copy_(values[f"{name}.weight_ih"])
                getattr(lstm, f"weight_hh_{ending}").copy_(values[f"{name}.weight_hh"])
                getattr(lstm, f"bias_ih_{ending}").copy_(values[f"{name}.bias"])
                getattr(lstm, f"bias_hh_{ending}").zero_()
        x, y = drawn(2, 6, d), torch.tensor([[0, 0, 1, 1, 2, 2]] * 2)
        both = lstm(x)[0].detach()
        torch.testing.assert_close(context.read_support(values, x, y), both[..., :d] + both[..., d:] + x)

    def test_query_vectors_in_context_are_those_of_an_attention_lstm_by_hand(self) -> None:
        context, d = Context(Context.Config(steps=3), 4), 4
        values = {name: value.double() for name, value in context.init(3).items()}
        g, queries = drawn(1, 5, d), drawn(1, 2, d, seed=1)
        found = context.read_query(values, g, queries)
        for j, x in enumerate(queries[0]):
            h, c = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
            for _ in range(3):
                weights = torch.stack([(h * one).sum().exp() for one in g[0]])
                r = sum(w * one for w, one in zip(weights / weights.sum(), g[0], strict=True))
                gates = (
                    values["read.weight_ih"] @ x + values["read.weight_hh"] @ torch.cat([h, r]) + values["read.bias"]
                )
                i, f, new, o = gates[:d], gates[d : 2 * d], gates[2 * d : 3 * d], gates[3 * d :]
                c = f.sigmoid() * c + i.sigmoid() * new.tanh()
                h = o.sigmoid() * c.tanh() + x
            torch.testing.assert_close(found[0, j], h)

    def test_context_does_not_depend_on_how_examples_of_classes_alternate(self) -> None:
        made = learner("matching", model=LINEAR, context={"steps": 2})
        phi, task = phi_of(made), tasks(shots=2, count=1)
        mixed = torch.tensor([4, 0, 2, 1, 5, 3])  # examples of one class stay in their order
        other = Batch(task.support.x[:, mixed], task.support.y[:, mixed])
        first, second = (made.adapt(phi, one, 0)(task.query.x) for one in (task.support, other))
        torch.testing.assert_close(first, second)
        assert not torch.allclose(first, learner("matching", model=LINEAR).adapt(phi, other, 0)(task.query.x))


class TestRelation:
    @pytest.mark.parametrize("aggregate", ["sum", "mean"])
    def test_scores_and_loss_equal_a_loop_over_pairs_of_maps(self, aggregate: str) -> None:
        relation = {"type": "conv4", "filters": 2, "blocks": 1, "head": "flatten", "norm": "none"}
        made = learner(
            "relation", (1, 8, 8), model={**CONV, "norm": "none"}, relation=relation, hidden=3, aggregate=aggregate
        )
        phi, task = phi_of(made), tasks((1, 8, 8))
        found = made.evaluate(phi, task, 0)
        outputs = made.adapt(phi, task.support, 0)(task.query.x)
        encoder, module = made.embedding.module(phi), made.relation.module().double()
        module.load_state_dict(phi.part("relation"))
        for t in range(2):
            maps = encoder(task.support.x[t]).reshape(6, 3, 2, 2)
            total = torch.zeros((), dtype=torch.float64)
            for j, x in enumerate(task.query.x[t]):
                for k in range(3):
                    one = maps[task.support.y[t] == k]
                    one = one.sum(0) if aggregate == "sum" else one.mean(0)
                    pair = torch.cat([one, encoder(x[None]).reshape(3, 2, 2)])
                    hidden = module(pair[None])[0].relu()
                    r = torch.sigmoid(phi.tensors["score.weight"][0] @ hidden + phi.tensors["score.bias"][0])
                    torch.testing.assert_close(outputs[t, j, k].exp(), r)
                    total = total + (r - float(task.query.y[t, j] == k)) ** 2
            torch.testing.assert_close(found.query[t], total / 27)

    def test_vectors_of_any_network_are_related_one_after_the_other(self) -> None:
        made = learner("relation", model=LINEAR, relation=SMOOTH, hidden=4)
        assert made.relation.sizes == (10, 6, 4)
        assert torch.isfinite(made.evaluate(phi_of(made), tasks(), 0).query).all()

    def test_maps_that_the_embedding_does_not_have_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"maps: \[2, 2, 2\] are not the 5 outputs"):
            learner("relation", model=LINEAR, relation=SMOOTH, maps=[2, 2, 2])

    def test_its_encoder_has_the_maps_of_the_publication(self) -> None:
        made = build(
            "learner",
            {
                "type": "relation",
                "model": {"type": "conv4", "pool": "max", "pooled": 2, "padding": [0, 0, 1, 1], "head": "none"},
            },
            "learner",
            spec=TaskSpec("classification", (1, 28, 28), 5, 5, 5),
        )
        assert made.embedding.maps == (64, 5, 5)
        assert made.relation.channels == [128, 64, 64]
        assert made.relation.features == 64


class TestSiamese:
    @pytest.mark.parametrize("energy", ["weighted_l1", "euclidean", "cosine"])
    @pytest.mark.parametrize("squash", [False, True])
    def test_loss_and_outputs_equal_a_loop_over_pairs(self, energy: str, squash: bool) -> None:
        made = learner("siamese", model=LINEAR, energy=energy, margin=0.7, squash=squash)
        phi, task = phi_of(made), tasks()
        found = made.evaluate(phi, task, 0)
        outputs = made.adapt(phi, task.support, 0)(task.query.x)
        for t in range(2):
            kinds: dict[bool, list[Tensor]] = {True: [], False: []}
            for j, (x, y) in enumerate(zip(task.query.x[t], task.query.y[t], strict=True)):
                logs: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
                for other, label in zip(task.support.x[t], task.support.y[t], strict=True):
                    a, b = embedded(phi, x), embedded(phi, other)
                    a, b = (a.sigmoid(), b.sigmoid()) if squash else (a, b)
                    same = bool(y == label)
                    if energy == "weighted_l1":
                        p = torch.sigmoid((a - b).abs() @ phi.tensors["verdict.weight"] + phi.tensors["verdict.bias"])
                        kinds[same].append(-torch.log(p if same else 1 - p))
                        logs[int(label)].append(p.log())
                    else:
                        distance = (a - b).norm() if energy == "euclidean" else 1 - F.cosine_similarity(a, b, dim=0)
                        kinds[same].append(0.5 * distance**2 if same else 0.5 * (0.7 - distance).clamp(min=0) ** 2)
                        logs[int(label)].append(-distance)
                expected = torch.stack([torch.stack(logs[k]).mean() for k in range(3)])
                torch.testing.assert_close(outputs[t, j], expected)
            half = [torch.stack(kinds[kind]).mean() for kind in (True, False)]
            torch.testing.assert_close(found.query[t], 0.5 * sum(half))

    @pytest.mark.parametrize("energy", ["euclidean", "cosine"])
    def test_different_pairs_beyond_the_margin_cost_nothing(self, energy: str) -> None:
        made = learner("siamese", model=LINEAR, energy=energy, margin=0.5)
        scores = torch.tensor([[[-0.5, -0.6, -0.4]]], dtype=torch.float64, requires_grad=True)
        labels, targets = torch.tensor([[1, 1, 2]]), torch.tensor([[0]])
        same_too = torch.cat([scores, torch.zeros(1, 1, 1, dtype=torch.float64)], -1)  # one same pair, at distance 0
        loss = made.losses(same_too, torch.cat([labels, torch.tensor([[0]])], -1), targets)
        loss.sum().backward()
        assert loss.item() == pytest.approx(0.5 * (0.5 * 0.1**2) / 3)
        assert scores.grad[0, 0, :2].eq(0).all()
        assert scores.grad[0, 0, 2] != 0

    def test_verification_metrics_are_those_of_scikit_learn(self) -> None:
        scores = (drawn(3, 40) * 3).round() / 3  # with ties
        same = drawn(3, 40, seed=1) > 0.3
        for t in range(3):
            area, balanced = roc_auc(scores, same)[t], balanced_accuracy(scores, same, 0.1)[t]
            assert float(area) == pytest.approx(roc_auc_score(same[t], scores[t]))
            assert float(balanced) == pytest.approx(balanced_accuracy_score(same[t], scores[t] > 0.1))

    def test_equal_pictures_have_a_finite_gradient(self) -> None:
        made = learner("siamese", model=LINEAR, energy="euclidean")
        task = tasks()
        same = Task(task.support, task.support, task.seeds)
        phi = phi_of(made)
        leaves = [value.requires_grad_() for value in phi.tensors.values()]
        found = torch.autograd.grad(made.evaluate(phi, same, 0).query.sum(), leaves)
        assert all(torch.isfinite(one).all() for one in found)

    def test_metrics_of_verification_are_given(self) -> None:
        made = learner("siamese", model=LINEAR)
        phi, task = phi_of(made), tasks()
        assert set(made.evaluate(phi, task, 0).metrics) == {"accuracy", "verification"}
        assert set(made.evaluate(phi, task, 0, train=False).metrics) == {"accuracy", "verification", "auc"}


class TestBatchNorm:
    def test_a_training_batch_is_the_support_and_query_set_of_one_episode(self) -> None:
        model = {**CONV, "blocks": 1, "norm": "running", "momentum": 0.3, "affine": "none"}
        made = learner("prototypical", (1, 8, 8), model=model)
        phi, task = made.init(0).to("cpu", torch.float64), tasks((1, 8, 8))
        found = made.evaluate(phi, task, 0)
        kernel = phi.tensors["embedding.blocks.0.conv.weight"]
        means, losses = [], []
        for t in range(2):
            layer = torch.nn.BatchNorm2d(3, momentum=0.3, affine=False).double()
            both = F.conv2d(torch.cat([task.support.x[t], task.query.x[t]]), kernel, padding=1)
            z = F.max_pool2d(layer(both).relu(), 2).flatten(1)
            centres = torch.stack([z[:6][task.support.y[t] == k].mean(0) for k in range(3)])
            losses.append(F.cross_entropy(-torch.cdist(z[6:], centres).square(), task.query.y[t]))
            means.append(layer.running_var)
        torch.testing.assert_close(found.query, torch.stack(losses))
        torch.testing.assert_close(found.updates["embedding.blocks.0.norm.running_var"], torch.stack(means).mean(0))

    def test_sets_by_themselves_are_two_batches(self) -> None:
        made = learner("prototypical", (1, 8, 8), model={**CONV, "blocks": 1, "norm": "running"}, norm_over="set")
        phi, task = made.init(0).to("cpu", torch.float64), tasks((1, 8, 8), count=1)
        layer = torch.nn.BatchNorm2d(3).double()
        for x in (task.support.x[0], task.query.x[0]):
            layer(F.conv2d(x, phi.tensors["embedding.blocks.0.conv.weight"], padding=1))
        updates = made.evaluate(phi, task, 0).updates
        torch.testing.assert_close(updates["embedding.blocks.0.norm.running_mean"], layer.running_mean)

    @pytest.mark.parametrize("norm", ["batch", "running"])
    def test_only_batch_statistics_make_a_prediction_depend_on_the_others(self, norm: str) -> None:
        made = learner("prototypical", (1, 8, 8), model={**CONV, "norm": norm})
        phi, task = phi_of(made), tasks((1, 8, 8))
        adapted = made.adapt(phi, task.support, 0)
        together, alone = adapted(task.query.x)[:, :1], adapted(task.query.x[:, :1])
        assert torch.allclose(together, alone) == (norm == "running")
        assert ("transductive" in made.batch_norm) == (norm == "batch")
        assert made.evaluate(phi, task, 0, train=False).updates == {}

    def test_a_large_support_set_goes_through_in_parts(self) -> None:
        made = learner("prototypical", model=SMOOTH)
        phi = phi_of(made)
        x, y = drawn(1, 700, 4), torch.arange(700).remainder(3)[None]
        with torch.no_grad():
            parts = made.embedding(phi, x)
        torch.testing.assert_close(parts, made.embedding(phi, x))
        assert made.adapt(phi, Batch(x, y), 0)(x).shape == (1, 700, 3)


def test_cosine_of_a_zero_vector_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    near = Cosine(Cosine.Config())({}, x, torch.ones(1, 1, 3, dtype=torch.float64))
    near.sum().backward()
    assert near.eq(0).all()
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(unit(drawn(4, 3)).norm(dim=-1), torch.ones(4, dtype=torch.float64))


def test_a_distance_of_ones_own_is_named_by_its_class() -> None:
    made = learner("prototypical", model=LINEAR, distance={"type": Cosine, "temperature": 0.4})
    assert float(made.distance.scale({})) == pytest.approx(2.5)
    with pytest.raises(ConfigError, match=r"distance.*did you mean 'cosine'"):
        learner("prototypical", model=LINEAR, distance="cosin")


def test_a_module_with_another_number_of_outputs_is_refused_with_both_ways_out() -> None:
    with pytest.raises(
        ConfigError, match=r"features: .*outputs \[n, 5\] .*got \[2, 7\]; set its number of outputs, or features"
    ):
        learner("prototypical", model=torch.nn.Linear(4, 7))
    assert learner("prototypical", model=torch.nn.Linear(4, 7), features=7).embedding.features == 7
