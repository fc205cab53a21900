"""Compiling a finished gradient computation, double backward included.

``torch.compile`` refuses a function that differentiates twice. Here the function is run once with its operations
recorded (``make_fx``): what autograd does inside becomes part of the graph, and the graph, which holds no gradients
any more, goes to inductor. The compiled code is kept in inductor's cache on disk, so that a second process starts fast.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from metasearch.core.errors import ExecutionError

__all__ = ["CompileMode", "Compiled", "compile_graph"]

CompileMode = Literal["auto", "never", "always"]
"""``auto`` compiles, or falls back to eager with a notice; ``never`` does not; ``always`` raises where it cannot."""

Function = Callable[[list[Tensor]], tuple[Tensor, ...]]

logger = logging.getLogger(__name__)


def compile_graph(function: Function, example_inputs: Sequence[Tensor], mode: CompileMode = "auto") -> Compiled:
    """A faster callable with the values of ``function``, compiled now for the shapes of ``example_inputs``.

    Args:
        function: takes a list of tensors, returns a tuple of tensors; may call ``torch.autograd.grad`` inside. It is
            run once and its operations recorded, so it must not branch on values, draw, or depend on anything else.
        example_inputs: tensors of the shapes, dtypes and devices to compile for; their values do not matter.
        mode: see :data:`CompileMode`.

    Returns:
        A callable of the same signature. Inputs of other shapes are compiled when they first come. Its results have no
        gradient history.

    Raises:
        ExecutionError: in mode ``always``, if there is no C++ compiler or compilation fails.
    """
    compiled = Compiled(function, mode)
    compiled.prepare(example_inputs)
    return compiled


class Compiled:
    """A function compiled once for each combination of input shapes, dtypes and devices.

    Args:
        function, mode: as for :func:`compile_graph`.
    """

    def __init__(self, function: Function, mode: CompileMode = "auto") -> None:
        self.function, self.mode = function, mode
        self._programs: dict[Hashable, Function] = {}

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The function's values at ``inputs``."""
        plain = [value.detach() for value in inputs]
        return tuple(value.detach() for value in self.prepare(plain)(plain))

    def prepare(self, inputs: Sequence[Tensor]) -> Function:
        """Compiles for inputs like these unless that has been done, and returns the program."""
        key = tuple((tuple(value.shape), value.dtype, value.device, torch.get_num_threads()) for value in inputs)
        if key not in self._programs:
            self._programs[key] = self._build([value.detach() for value in inputs])
        return self._programs[key]

    def _build(self, inputs: list[Tensor]) -> Function:
        if self.mode == "never":
            return self.function
        start = time.perf_counter()
        try:
            program = _inductor(trace(self.function, inputs), inputs)
        except (
            Exception
        ) as error:  # inductor raises whatever its stages raise; the eager function is the reference and remains
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            if self.mode == "always":
                raise ExecutionError(
                    f"expected to compile, got {reason}; install a C++ compiler or set numerics.compile to auto"
                ) from error
            logger.warning("not compiled, running eagerly (several times slower): %s", reason)
            return self.function
        logger.info("compiled the gradient in %.1f s", time.perf_counter() - start)
        return program


def trace(function: Function, inputs: list[Tensor]) -> fx.GraphModule:
    """The operations of ``function`` as a graph without repeated expressions; gradients taken inside are part of it.

    Where the function writes in place, the graph has operations without side effects instead.
    """
    from torch._functorch.compile_utils import fx_graph_cse

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(list(values)))

    record = functools.partial(make_fx, tracing_mode="fake", _allow_non_fake_inputs=True)
    graph = record(flat)(*inputs)
    if any(_writes(node) for node in graph.graph.nodes):
        # Two buffers that are made alike and then written to are no repeated expression.
        graph = record(torch.func.functionalize(graph, remove="mutations"))(*inputs)
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, fx_graph_cse(graph.graph))


def _writes(node: fx.Node) -> bool:
    """Whether an operation changes a value in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _inductor(graph: fx.GraphModule, inputs: list[Tensor]) -> Function:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what inductor's own imports and stages warn of is not for users of a search
        from torch._inductor.compile_fx import compile_fx

        compiled: Any = compile_fx(graph, inputs, config_patches=_OPTIONS)

    def run(values: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(compiled(*values))

    return run


_OPTIONS: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": True}
