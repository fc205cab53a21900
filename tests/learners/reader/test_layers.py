"""Layers of sequence readers, against torch's own modules and computations written out place by place."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metasearch.learners.reader.layers import Layer, Normalize, Project, attend, attend_with_self
from metasearch.learners.reader.mann import MANN, MemoryLayer
from metasearch.learners.reader.recurrent import GRULayer, LSTMLayer
from metasearch.learners.reader.snail import CausalAttention, DenseConvolution
from metasearch.learners.reader.transformer import Block
from metasearch.models.initial import Initializer

MEMORY = MemoryLayer(6, MANN.Config(hidden=5, rows=4, word=3, heads=2))
CAUSAL: dict[str, Layer] = {
    "convolution": DenseConvolution(6, 3, 2),
    "attention": CausalAttention(6, 4, 3),
    "block": Block(6, 2, 2, causal=True),
    "places": Project(6, 5, places=True),
    "norm": Normalize(6),
    "lstm": LSTMLayer(6, 5),
    "gru": GRULayer(6, 5),
    "memory": MEMORY,
}


def weights(layer: Layer, seed: int = 0) -> dict[str, Tensor]:
    """Fresh tensors, biases moved off zero."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: one.double() + 0.3 * torch.randn(one.shape, generator=draw, dtype=torch.float64)
        for name, one in layer.init(Initializer(seed)).items()
    }


def sequence(n: int = 7, channels: int = 6, tasks: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(tasks, n, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", CAUSAL)
class TestCausal:
    def test_a_change_of_the_future_changes_nothing_before(self, name: str) -> None:
        layer, x = CAUSAL[name], sequence()
        p = weights(layer)
        before = layer.read(p, x)[0]
        for place in range(1, x.shape[1]):
            changed = x.clone()
            changed[:, place:] *= -1.0
            after = layer.read(p, changed)[0]
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place], before[:, place])

    @pytest.mark.parametrize("length", [1, 2, 6])
    def test_a_query_is_the_next_place_of_the_sequence(self, name: str, length: int) -> None:
        layer, x = CAUSAL[name], sequence(length + 3)
        p = weights(layer)
        support, queries = x[:, :length], x[:, length:]
        answers = layer.answer(p, queries, layer.read(p, support)[1])
        assert answers.shape == (2, 3, layer.width)
        for index in range(3):
            whole = torch.cat([support, queries[:, index : index + 1]], 1)
            torch.testing.assert_close(answers[:, index], layer.read(p, whole)[0][:, -1])


class TestAttention:
    def test_weights_sum_to_one_and_hide_the_future(self) -> None:
        x = sequence()
        for causal in (True, False):
            found, shares = attend(x, x, x, causal=causal)
            torch.testing.assert_close(shares.sum(-1), torch.ones(2, 7, dtype=torch.float64))
            torch.testing.assert_close(found, shares @ x)
            assert bool((shares.triu(1) == 0).all()) == causal
        _, shares = attend_with_self(x[:, :3], (x[:, :3], x[:, :3]), x, x)
        assert shares.shape == (2, 3, 8)
        torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, dtype=torch.float64))

    def test_by_hand(self) -> None:
        query = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        keys = torch.tensor([[math.sqrt(2) * math.log(3), 0.0], [0.0, 0.0]])
        values = torch.tensor([[4.0], [8.0]])
        found, shares = attend(query, keys, values, causal=False)
        torch.testing.assert_close(shares, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
        torch.testing.assert_close(found, torch.tensor([[5.0], [6.0]]))
        hidden, _ = attend(query, keys, values, causal=True)
        torch.testing.assert_close(hidden, torch.tensor([[4.0], [6.0]]))


def test_the_dense_convolution_is_a_dilated_convolution_with_zeros_before_the_start() -> None:
    layer, x = DenseConvolution(6, 3, 2), sequence()
    p = weights(layer)

    def convolution(part: str) -> Tensor:
        taps = torch.stack(p[f"{part}.weight"].split(6, -1), -1)  # the earlier tap first, as conv1d has it
        padded = nn.functional.pad(x.mT, (2, 0))
        return nn.functional.conv1d(padded, taps, p[f"{part}.bias"], dilation=2).mT

    expected = torch.cat([x, convolution("value").tanh() * convolution("gate").sigmoid()], -1)
    torch.testing.assert_close(layer.read(p, x)[0], expected)


def test_causal_attention_place_by_place() -> None:
    layer, x = CausalAttention(6, 4, 3), sequence()
    p = weights(layer)
    found = layer.read(p, x)[0]
    assert torch.equal(found[..., :6], x)
    for place in range(7):
        seen = x[0, : place + 1]
        query, keys, values = (
            one @ p[f"{part}.weight"].T + p[f"{part}.bias"]
            for part, one in (("query", x[0, place]), ("key", seen), ("value", seen))
        )
        shares = torch.exp(keys @ query / 2.0)
        torch.testing.assert_close(found[0, place, 6:], shares @ values / shares.sum())


@pytest.mark.parametrize("causal", [True, False])
def test_the_block_is_that_of_torch(causal: bool) -> None:
    layer, x = Block(6, 2, 2, causal=causal), sequence()
    p = weights(layer)
    theirs = nn.TransformerEncoderLayer(6, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "self_attn.out_proj": "joined",
        "linear1": "up",
        "linear2": "down",
    }
    state = {f"{a}.{kind}": p[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    state |= {f"self_attn.in_proj_{kind}": p[f"attention.{kind}"] for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    torch.testing.assert_close(layer.read(p, x)[0], theirs(x, src_mask=mask))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_layers_are_those_of_torch(kind: str) -> None:
    x = sequence()
    layer: Any = LSTMLayer(6, 5) if kind == "lstm" else GRULayer(6, 5)
    theirs: Any = (nn.LSTM if kind == "lstm" else nn.GRU)(6, 5, batch_first=True, dtype=torch.float64)
    p = weights(layer)
    state = {"weight_ih_l0": p["inputs.weight"], "weight_hh_l0": p["state.weight"]}
    if kind == "lstm":
        state |= {"bias_ih_l0": p["bias"], "bias_hh_l0": torch.zeros(20, dtype=torch.float64)}
    else:
        state |= {"bias_ih_l0": p["inputs.bias"], "bias_hh_l0": p["state.bias"]}
    theirs.load_state_dict(state)
    torch.testing.assert_close(layer.read(p, x)[0], theirs(x)[0])


def test_places_are_sines_and_cosines() -> None:
    layer = Project(6, 4, places=True)
    p = {name: torch.zeros_like(one) for name, one in weights(layer).items()}
    angles = [[place * rate for rate in (1.0, 0.01)] for place in range(7)]
    expected = torch.tensor([[math.sin(a), math.sin(b), math.cos(a), math.cos(b)] for a, b in angles])
    torch.testing.assert_close(layer.read(p, sequence())[0][0], expected.double())


@pytest.mark.parametrize("causal", [True, False])
def test_attention_starts_as_a_similarity(causal: bool) -> None:
    """Keys start equal to queries; a set transformer without that was at chance three times as long in a pilot."""
    p = Block(6, 2, 2, causal=causal).init(Initializer(0))
    query, key, value = p["attention.weight"].chunk(3)
    assert torch.equal(query, key)
    assert not torch.equal(key, value)
    p = CausalAttention(6, 4, 3).init(Initializer(0))
    assert torch.equal(p["query.weight"], p["key.weight"])
    assert p["query.weight"].data_ptr() != p["key.weight"].data_ptr()
