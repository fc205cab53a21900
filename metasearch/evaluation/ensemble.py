"""The mean prediction of several phis on the same episodes.

MAML++ (Antoniou, Edwards, Storkey 2019, arXiv:1810.09502) is published with the figure of such an ensemble: the five
phis that did best in validation, each of which adapts to the support set by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metasearch.core.contracts import Learner
from metasearch.core.values import Call, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.estimators.value import Value
from metasearch.learners.losses import loss_for, metrics_for

__all__ = ["Ensemble", "mean_prediction", "stacked"]


class Ensemble(Value):
    """L and metrics of the mean prediction of several phis, which a call has as one (see :func:`stacked`).

    Of classification it averages the probabilities, so L is ``-log`` of the mean probability of the true class and the
    predicted class is that with the highest one; of regression the outputs. Of one phi these are the figures of the
    test itself, except that learners with a loss of their own (a relation network) are judged by the tasks' loss here.
    """

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        spec, given = self.problem.tasks.spec(call.split), task.support
        own: Any = learner
        if getattr(own, "takes_unlabelled", False):
            given = own.support(task, train=False)
        with torch.no_grad():
            outputs = [learner.adapt(one, given, call.seed, seeds=task.seeds)(task.query.x) for one in _members(phi)]
            found = mean_prediction(spec, outputs)
            loss = loss_for(spec)(found, task.query.y).mean(-1)
        return Losses(loss, loss, metrics_for(spec, found, task.query.y)), None, None


def mean_prediction(spec: TaskSpec, outputs: Sequence[Tensor]) -> Tensor:
    """One prediction ``[T, m, outputs]`` of several: logits of the mean probabilities, or the mean of the outputs.

    >>> likely, unsure = torch.tensor([[[0.9, 0.1]]]).log(), torch.zeros(1, 1, 2)
    >>> spec = TaskSpec("classification", (1,), 2, 1, 1)
    >>> mean_prediction(spec, [likely, unsure]).exp()
    tensor([[[0.7000, 0.3000]]])
    """
    if len(outputs) == 1:
        return outputs[0]
    if spec.kind != "classification":
        return torch.stack(list(outputs)).mean(0)
    # The logarithm of a sum of exponentials: a probability that is too small for its dtype still has a logarithm.
    together = torch.stack([torch.log_softmax(one, dim=-1) for one in outputs])
    return torch.logsumexp(together, dim=0) - math.log(len(outputs))


def stacked(phis: Sequence[Phi]) -> Phi:
    """Phis of one kind as one, their tensors and buffers ``[k, ...]``.

    Raises:
        ValueError: if there is none, or their choices differ.
    """
    if not phis or any(dict(one.choices) != dict(phis[0].choices) for one in phis):
        raise ValueError("an ensemble is made of one or more phis with the same choices")
    first = phis[0]
    return Phi(
        {name: torch.stack([one.tensors[name] for one in phis]) for name in first.tensors},
        {name: torch.stack([one.buffers[name] for one in phis]) for name in first.buffers},
        first.choices,
    )


def _members(phi: Phi) -> list[Phi]:
    """The phis that :func:`stacked` made one."""
    count = len(next(iter({**phi.tensors, **phi.buffers}.values())))
    return [
        Phi(
            {name: value[index] for name, value in phi.tensors.items()},
            {name: value[index] for name, value in phi.buffers.items()},
            phi.choices,
        )
        for index in range(count)
    ]
