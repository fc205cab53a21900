"""Compiling a finished gradient: same numbers, one program a shape, and an honest fallback."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch.nn import functional as F

from metasearch.core.errors import ExecutionError
from metasearch.core.values import TaskSpec
from metasearch.estimators import compile as compiling
from metasearch.estimators.compile import compile_graph, trace
from metasearch.models.conv4 import Conv4


def curved(inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradient of a squared gradient: a double backward pass."""
    w, x = inputs
    w = w.detach().requires_grad_()
    with torch.enable_grad():
        first = torch.autograd.grad(torch.tanh(x @ w).square().sum(), w, create_graph=True)[0]
        return (first.detach(), *torch.autograd.grad(first.square().sum(), w))


def arguments(rows: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 2), (rows, 4))]


def meta_gradient(inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """One inner step of a small conv4 for three tasks, and the gradient of the query loss."""
    *values, xs, xq, y = inputs
    phi = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        theta = [value.expand(3, *value.shape) for value in phi]
        inner = torch.autograd.grad(loss(theta, xs, y), theta, create_graph=True)
        theta = [value - 0.4 * slope for value, slope in zip(theta, inner, strict=True)]
        return torch.autograd.grad(loss(theta, xq, y), phi)


def loss(theta: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(NETWORK(dict(zip(NAMES, theta, strict=True)), {}, x)[0].flatten(0, 1), y.flatten())


NETWORK = Conv4(Conv4.Config(filters=4, blocks=2), TaskSpec("classification", (1, 8, 8), 3, 3, 3))
NAMES = list(NETWORK.init(0)[0])


def episode() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(3, 3, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [
        *(value.double() for value in NETWORK.init(0)[0].values()),
        *images,
        torch.arange(3).expand(3, 3).contiguous(),
    ]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces inductor by the traced graph itself; one entry for each program that was built."""
    built: list[int] = []

    def interpret(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        built.append(inputs[1].shape[0])
        return lambda values: graph(*values)

    monkeypatch.setattr(compiling, "_inductor", interpret)
    return built


def test_a_traced_double_backward_gives_the_eager_values_bit_for_bit(stages: list[int]) -> None:
    program = compile_graph(curved, arguments(), "always")
    assert all(torch.equal(left, right) for left, right in zip(program(arguments()), curved(arguments()), strict=True))
    assert stages == [3]


def test_the_traced_meta_gradient_of_conv4_gives_the_eager_values() -> None:
    graph = trace(meta_gradient, episode())
    for left, right in zip(graph(*episode()), meta_gradient(episode()), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)


def test_other_values_run_through_the_same_program(stages: list[int]) -> None:
    program = compile_graph(curved, arguments(), "always")
    moved = [value + 0.5 for value in arguments()]
    assert torch.equal(program(moved)[1], curved(moved)[1])
    assert stages == [3]


def test_each_shape_is_compiled_once(stages: list[int]) -> None:
    program = compile_graph(curved, arguments(3), "auto")
    for rows in (3, 5, 3, 5):
        torch.testing.assert_close(program(arguments(rows))[0], curved(arguments(rows))[0], rtol=1e-14, atol=0)
    assert stages == [3, 5]


def test_the_function_is_not_run_again_once_compiled(stages: list[int]) -> None:
    runs = []

    def counted(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        runs.append(1)
        return curved(inputs)

    program = compile_graph(counted, arguments(), "always")
    program(arguments())
    program(arguments())
    assert runs == [1]


def test_never_calls_the_function_itself(stages: list[int]) -> None:
    program = compile_graph(curved, arguments(), "never")
    assert torch.equal(program(arguments())[1], curved(arguments())[1])
    assert stages == []


@pytest.mark.parametrize("mode", ["never", "always"])
def test_results_have_no_gradient_history(stages: list[int], mode: compiling.CompileMode) -> None:
    inputs = [value.requires_grad_() for value in arguments()]
    assert not any(
        value.requires_grad for value in compile_graph(lambda given: (given[0] * given[1].sum(),), inputs, mode)(inputs)
    )


def test_a_failed_compilation_falls_back_to_eager_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(compiling, "_inductor", fail)
    with caplog.at_level(logging.WARNING, logger="metasearch"):
        program = compile_graph(curved, arguments(), "auto")
        assert torch.equal(program(arguments())[1], curved(arguments())[1])
        program(arguments())
    notices = [record.getMessage() for record in caplog.records]
    assert notices == ["not compiled, running eagerly (several times slower): RuntimeError: no compiler here"]
    with pytest.raises(
        ExecutionError, match=r"no compiler here; install a C\+\+ compiler or set numerics.compile to auto"
    ):
        compile_graph(curved, arguments(), "always")


def test_a_missing_compiler_falls_back_to_eager(caplog: pytest.LogCaptureFixture) -> None:
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), caplog.at_level(logging.WARNING, logger="metasearch"):
        program = compile_graph(curved, arguments(), "auto")
    assert torch.equal(program(arguments())[1], curved(arguments())[1])
    notices = [record.getMessage() for record in caplog.records]
    assert len(notices) == 1
    assert notices[0].startswith("not compiled, running eagerly")
    assert "No working C++ compiler" in notices[0]


@pytest.mark.slow
def test_the_compiled_meta_gradient_of_conv4_equals_the_eager_one_in_float64() -> None:
    program = compile_graph(meta_gradient, episode(), "always")
    for left, right in zip(program(episode()), meta_gradient(episode()), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10 * float(right.abs().max()))


SCRIPT = """
import sys; sys.path.insert(0, {here!r})
import torch; torch.set_num_threads(1)
from test_compile import *
from metasearch.core.values import fingerprint
found = compile_graph(meta_gradient, episode(), "always")(episode())
print(fingerprint([(str(i), one) for i, one in enumerate(found)]))
"""


@pytest.mark.slow
def test_two_processes_compute_the_same_bits() -> None:
    script = SCRIPT.format(here=str(__file__).rsplit("/", 1)[0])
    outputs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].strip()) == 32
