"""The external memory, by hand."""

import math

import numpy as np
import pytest
import torch

from metasearch.core.errors import ConfigError
from metasearch.core.values import TaskSpec
from metasearch.learners.reader.mann import MANN, MemoryLayer, State, least_used
from metasearch.models.initial import Initializer


def layer(**settings: object) -> tuple[MemoryLayer, dict[str, torch.Tensor]]:
    config = MANN.Config(**{"hidden": 3, "rows": 4, "word": 2, "heads": 1, **settings})
    made = MemoryLayer(5, config)
    draw = torch.Generator().manual_seed(1)
    return made, {
        name: one.double() + 0.5 * torch.randn(one.shape, generator=draw, dtype=torch.float64)
        for name, one in made.init(Initializer(0)).items()
    }


def some_state(made: MemoryLayer, usage: list[float]) -> State:
    draw = torch.Generator().manual_seed(2)
    start = made.start(torch.zeros(1, 5, dtype=torch.float64))
    return start._replace(
        memory=torch.randn(start.memory.shape, generator=draw, dtype=torch.float64),
        usage=torch.tensor([usage], dtype=torch.float64),
    )


def test_a_closed_gate_writes_at_the_least_used_slot_and_nowhere_else() -> None:
    made, p = layer()
    p["gate.bias"] = torch.full((1,), -800.0, dtype=torch.float64)  # the gate is 0: all to the least used slot
    before = some_state(made, [0.9, 0.5, 0.1, 0.7])
    after = made.step(p, torch.zeros(1, 12, dtype=torch.float64), before)
    content = torch.tanh(after.hidden @ p["content.weight"].T + p["content.bias"])
    torch.testing.assert_close(after.memory[0, 2], content[0])  # emptied, then written
    assert torch.equal(after.memory[0, [0, 1, 3]], before.memory[0, [0, 1, 3]])


def test_an_open_gate_writes_where_it_read_last_and_still_empties_the_least_used_slot() -> None:
    made, p = layer()
    p["gate.bias"] = torch.full((1,), 800.0, dtype=torch.float64)
    before = some_state(made, [0.9, 0.5, 0.1, 0.7])._replace(
        weights=torch.tensor([[[0.0, 0.75, 0.0, 0.25]]], dtype=torch.float64)
    )
    after = made.step(p, torch.zeros(1, 12, dtype=torch.float64), before)
    content = torch.tanh(after.hidden @ p["content.weight"].T + p["content.bias"])[0]
    expected = before.memory[0].clone()
    expected[2] = 0.0
    expected[1] += 0.75 * content
    expected[3] += 0.25 * content
    torch.testing.assert_close(after.memory[0], expected)


def test_heads_write_at_slots_of_their_own_the_least_used_first() -> None:
    usage = torch.tensor([[0.5, 0.1, 0.3, 0.1]])
    assert least_used(usage, 3).argmax(-1).tolist() == [[1, 3, 2]]


def test_read_weights_sum_to_one_and_usage_decays() -> None:
    made, p = layer(heads=2, decay=0.9)
    state = made.start(torch.zeros(3, 5, dtype=torch.float64))
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for place in range(6):
        before, state = state, made.step(p, made._seen(p, x[:, place]), state)
        torch.testing.assert_close(state.weights.sum(-1), torch.ones(3, 2, dtype=torch.float64))
        added = state.usage - 0.9 * before.usage
        torch.testing.assert_close(added.sum(-1), torch.full((3,), 4.0, dtype=torch.float64))  # 2 reads and 2 writes


@pytest.mark.parametrize("stores", ["content", "key"])
def test_a_sequence_in_plain_numbers(stores: str) -> None:
    """The recurrences of the paper, one number after the other."""
    made, named = layer(heads=2, stores=stores)
    p = {name: one.numpy() for name, one in named.items()}
    x = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = made.read(named, x)[0][0].numpy()

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    def rows(name: str, h: np.ndarray) -> np.ndarray:
        return np.tanh(p[f"{name}.weight"] @ h + p[f"{name}.bias"]).reshape(2, 2)

    h, c, read = np.zeros(3), np.zeros(3), np.zeros(4)
    memory = np.full((4, 2), 1e-6)
    weights, usage = np.tile([1.0, 0, 0, 0], (2, 1)), np.array([1.0, 0, 0, 0])
    for place in range(5):
        inputs = np.concatenate([x[0, place].numpy(), read])
        gates = p["controller.inputs.weight"] @ inputs + p["controller.state.weight"] @ h + p["controller.bias"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        key = rows("key", h)
        content = key if stores == "key" else rows("content", h)
        gate = sigmoid(p["gate.weight"] @ h + p["gate.bias"])
        order = sorted(range(4), key=lambda slot: (usage[slot], slot))
        memory[order[0]] = 0.0
        writing = np.zeros((2, 4))
        for head in range(2):
            writing[head] = gate[head] * weights[head]
            writing[head, order[head]] += 1 - gate[head]
        for slot in range(4):
            memory[slot] += sum(writing[head, slot] * content[head] for head in range(2))
        weights, read = np.zeros((2, 4)), np.zeros((2, 2))
        for head in range(2):
            for slot in range(4):
                norms = max(math.hypot(*key[head]), 1e-8) * max(math.hypot(*memory[slot]), 1e-8)
                weights[head, slot] = math.exp(key[head] @ memory[slot] / norms)
            weights[head] /= weights[head].sum()
            read[head] = weights[head] @ memory
        read = read.reshape(4)
        usage = 0.95 * usage + weights.sum(0) + writing.sum(0)
        np.testing.assert_allclose(found[place], np.concatenate([h, read]), rtol=1e-9)


def test_more_heads_than_slots_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads: each writes at a slot of its own, and there are 3 slots"):
        MANN(MANN.Config(rows=3, heads=4), TaskSpec("classification", (4,), 3, 3, 6))
