"""The layers of learned rules, computed in pieces: the numbers of the same layers written plainly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from metasearch.components.rules import lstm, perceptron
from metasearch.components.rules.lstm import lstm_layer
from metasearch.components.rules.perceptron import perceptron as apply

UNITS, INPUTS, COORDINATES = 3, 2, 11


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def lstm_inputs() -> list[Tensor]:
    states = [drawn(rows, COORDINATES, seed=rows + 7 * place) for place, rows in enumerate((INPUTS, UNITS, UNITS))]
    weights = [drawn(4 * UNITS, INPUTS, seed=1), drawn(4 * UNITS, UNITS, seed=2), drawn(4 * UNITS, seed=3)]
    return [*states, *weights]


@pytest.mark.parametrize("asked", [range(6), (0, 3, 4, 5), (1, 5), (2,)])
@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("piece", [1, 4, COORDINATES, 4096])
def test_an_lstm_layer_in_pieces_has_the_values_and_gradients_of_the_plain_one(
    asked: Sequence[int], amd: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lstm, "AMD", amd)
    monkeypatch.setattr(lstm, "PIECE", piece)
    inputs = lstm_inputs()
    for place, one in enumerate(inputs):
        one.requires_grad_(place in asked)
    towards = drawn(2, UNITS, COORDINATES, seed=9)

    def answers(differentiable: bool) -> list[Tensor]:
        hidden, cell = lstm_layer(*inputs, differentiable=differentiable)
        slopes = torch.autograd.grad((torch.stack([hidden, cell]) * towards).sum(), [inputs[place] for place in asked])
        return [hidden, cell, *slopes]

    for own, plain in zip(answers(False), answers(True), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-13)


def test_a_perceptron_of_nothing_gives_nothing() -> None:
    assert apply(drawn(5, 0, seed=0), [(drawn(2, 5, seed=1), drawn(2, seed=2))]).shape == (2, 0)


@pytest.mark.parametrize("numbers", [1, 12, 1 << 17])
def test_a_perceptron_in_pieces_has_the_values_of_the_one_with_a_gradient(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptron, "PIECE_NUMBERS", numbers)
    x, sizes = drawn(5, COORDINATES, seed=0), [(4, 5), (3, 4), (2, 3)]
    layers = [(drawn(*size, seed=seed), drawn(size[0], seed=10 + seed)) for seed, size in enumerate(sizes)]
    kept = [one.clone() for one in (x, *(one for layer in layers for one in layer))]
    first = torch.relu(layers[0][0] @ x + layers[0][1][:, None])
    expected = layers[2][0] @ torch.relu(layers[1][0] @ first + layers[1][1][:, None]) + layers[2][1][:, None]

    torch.testing.assert_close(apply(x, layers), expected, rtol=1e-12, atol=1e-13)
    learned = [(weight.clone().requires_grad_(), bias.clone().requires_grad_()) for weight, bias in layers]
    found = apply(x, learned)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert found.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(apply(x, learned), expected, rtol=1e-12, atol=1e-13)
    for one, other in zip(kept, (x, *(one for layer in layers for one in layer)), strict=True):
        assert torch.equal(one, other)
