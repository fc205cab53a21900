"""The learner of a stored phi, built from its manifest without any data, also for another number of outputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasearch.artifacts import Manifest, check_fits, refuse_user_code
from metasearch.core.contracts import InnerProblem, Learner
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import build, resolve
from metasearch.core.space import Space, extract, left_open, substitute
from metasearch.core.values import Phi, TaskSpec, Tensors
from metasearch.program import without_owners

__all__ = [
    "build_learner",
    "for_outputs",
    "made_patterns",
    "plain_config",
    "spec_of",
    "trusted_block",
    "with_outputs",
    "zero_patterns",
]

_INITIALIZATION = "initialization."
_LOSSES = "metasearch.learners.losses:"


def spec_of(manifest: Manifest, *, allow_user_code: bool = False) -> TaskSpec:
    """Shapes of the tasks that a phi was learned on.

    Raises:
        ArtifactError: if the manifest does not say, or names a loss or a world of a user's own without leave to import
            it.
    """
    given = manifest.spec
    missing = sorted({"kind", "input_shape", "outputs"} - set(given))
    if missing:
        raise ArtifactError(
            f"the manifest of this phi does not say what its tasks look like (no {', '.join(missing)} in spec), so its "
            "learner cannot be built; its tensors are in .phi"
        )
    return TaskSpec(
        kind=str(given["kind"]),
        input_shape=tuple(int(size) for size in given["input_shape"]),
        outputs=int(given["outputs"]),
        support=int(given.get("support", 0)),
        query=int(given.get("query", 0)),
        loss=_loss(str(given["loss"]), allow_user_code) if given.get("loss") else None,
        environment=_environment(given["environment"], allow_user_code) if given.get("environment") else None,
    )


def plain_config(tree: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration under given choices; ranges that these do not name get a value all the same."""
    template, found = extract(tree)
    example = Space({name: dimension for name, (dimension, _) in found.items()}).sample(0)
    return dict(substitute(template, {**example, **choices}))


def trusted_block(manifest: Manifest, *, allow_user_code: bool = False) -> Mapping[str, Any]:
    """The learner's block of a manifest, once it is known that it may be built; with leave, imports as the search did.

    Raises:
        ArtifactError: if there is none, it was given as an object, or needs a user's code without leave to import it.
    """
    block = manifest.config.get("learner")
    if isinstance(block, str):
        block = {"type": block}
    if not isinstance(block, Mapping):
        raise ArtifactError(
            f"the manifest of this phi describes no learner (learner: {block!r}); its tensors are in .phi"
        )
    _refuse_objects(block)
    refuse_user_code(block, allow_user_code=allow_user_code)
    if allow_user_code:
        _reach_working_directory()
        for module in manifest.config.get("imports") or ():
            _imported(str(module))
    return block


def build_learner(
    manifest: Manifest, choices: Mapping[str, Any], spec: TaskSpec, *, allow_user_code: bool = False
) -> Learner:
    """The learner that a manifest describes, for tasks of given shapes.

    Args:
        manifest: of the stored phi.
        choices: the phi's own.
        spec: shapes of the tasks it is to learn.
        allow_user_code: whether modules and classes that the manifest names may be imported.

    Raises:
        ArtifactError: if it needs a user's code without leave to import it, was given as an object, or cannot be built
            here.
    """
    block = trusted_block(manifest, allow_user_code=allow_user_code)
    try:
        given = plain_config({"learner": block}, choices)["learner"]
        own = left_open({"learner": block}, choices, "learner.")
        return build("learner", without_owners(given), "learner", spec=spec, choices=own)
    except ConfigError as error:
        imports = manifest.config.get("imports")
        hint = f" (its search imported {', '.join(imports)}; allow_user_code=True does so, too)" if imports else ""
        raise ArtifactError(
            f"the learner of this phi cannot be built here: {error}{'' if allow_user_code else hint}"
        ) from error


def for_outputs(phi: Phi, learned: Learner, wanted: Learner) -> Phi:
    """A phi made for another number of outputs.

    What belongs to single outputs is found by comparing the two learners' tensors; everything else stays as it was
    learned.

    - Initial weights of outputs start at zero. (All classes then start equal, whatever their order: there is no learned
      weight for a class that training never had.)
    - Other tensors, such as learning rates of these weights, take the mean of what was learned over the outputs.

    Args:
        phi: fits ``learned``.
        learned: the learner of phi.
        wanted: the same learner for the other number.

    Raises:
        ArtifactError: if phi fits neither, or the inner loop never changes what would start at zero, or there is none.
    """
    before, after = learned.init(0), wanted.init(0)
    check_fits(phi, before)
    resized = [name for name, value in after.tensors.items() if value.shape != phi.tensors[name].shape]
    if resized and not isinstance(wanted, InnerProblem):
        room = ", or learn with capacity: N for tasks of up to N classes" if hasattr(wanted, "room") else ""
        raise ArtifactError(
            f"another number of outputs needs new values for {', '.join(resized)}, and {type(wanted).__name__} has no "
            f"inner loop that could find them; use {_number(learned)}{room}"
        )
    changed = Phi(_resized(phi.tensors, after.tensors), _resized(phi.buffers, after.buffers), phi.choices)
    check_fits(changed, after)
    fixed = [name for name in _starting_at_zero(phi, changed) if not _adapts(wanted, name)]
    if fixed:
        raise ArtifactError(
            f"another number of outputs needs new values for {', '.join(fixed)}, and the inner loop of this phi does "
            f"not change them (learner.adapt); use {_number(learned)}"
        )
    return changed


def zero_patterns(manifest: Manifest) -> tuple[str, ...]:
    """Patterns of the parameters that every task of the search started at zero; they are no part of phi."""
    learner = manifest.config.get("learner")
    slots = learner.get("slots") if isinstance(learner, Mapping) else None
    initialization = slots.get("initialization") if isinstance(slots, Mapping) else None
    patterns = initialization.get("zero") if isinstance(initialization, Mapping) else None
    return tuple(str(one) for one in patterns or ())


def made_patterns(manifest: Manifest) -> tuple[str, ...]:
    """Patterns of the parameters that every task of the search made of its support set; they are no part of phi."""
    learner = manifest.config.get("learner")
    slots = learner.get("slots") if isinstance(learner, Mapping) else None
    initialization = slots.get("initialization") if isinstance(slots, Mapping) else None
    head = initialization.get("head") if isinstance(initialization, Mapping) else None
    return ("head.weight", "head.bias") if head == "class_means" else ()


def _resized(tensors: Tensors, like: Mapping[str, Tensor]) -> Tensors:
    return {name: _like(name, value, like[name].shape) if name in like else value for name, value in tensors.items()}


def _like(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    if value.shape == shape:
        return value
    if name.startswith(_INITIALIZATION):
        return value.new_zeros(shape)
    axes = [axis for axis, (one, other) in enumerate(zip(value.shape, shape, strict=False)) if one != other]
    if value.dim() != len(shape) or len(axes) != 1 or not value.is_floating_point():
        return value  # the check of the result names both shapes
    return value.mean(axes[0], keepdim=True).expand(shape).clone()


def _number(learned: Learner) -> str:
    spec: TaskSpec | None = getattr(learned, "spec", None)
    return "the number it was learned with" + ("" if spec is None else f", {spec.outputs}")


def _starting_at_zero(phi: Phi, changed: Phi) -> list[str]:
    names = [name for name in phi.tensors if name.startswith(_INITIALIZATION)]
    return [
        name.removeprefix(_INITIALIZATION) for name in names if phi.tensors[name].shape != changed.tensors[name].shape
    ]


def _adapts(learner: Learner, name: str) -> bool:
    """Whether the inner loop changes a parameter; a learner that does not say changes what it likes."""
    adapted = getattr(learner, "adapted", None)
    return adapted is None or name in adapted


def _refuse_objects(value: Any, path: str = "learner") -> None:
    """Refuses what was given as an object in Python, of which the manifest has nothing but the class's name."""
    if isinstance(value, Mapping):
        if set(value) == {"object"}:
            raise ArtifactError(
                f"{path} was given as an object ({value['object']}) in Python, which a manifest cannot hold; give the "
                "class and its arguments next time, and now use .initialize(module) or the tensors in .phi"
            )
        for key, one in value.items():
            _refuse_objects(one, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            _refuse_objects(one, f"{path}.{index}")


def _reach_working_directory() -> None:
    """Lets modules beside the caller be imported, as a search does; an installed command does not look there."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _imported(module: str) -> None:
    try:
        resolve(f"{module}:__name__", "imports")
    except ConfigError as error:
        raise ArtifactError(f"the search of this phi imported {module}, which is not found here: {error}") from error


def _loss(reference: str, allow_user_code: bool) -> Any:
    """The loss that tasks brought along; metasearch's own are known without leave."""
    if not reference.startswith(_LOSSES) or "." in reference.removeprefix(_LOSSES):
        refuse_user_code(reference, allow_user_code=allow_user_code)
    try:
        return resolve(reference, "spec.loss")
    except ConfigError as error:
        raise ArtifactError(f"the loss of this phi's tasks cannot be imported here: {error}") from error


def _environment(block: Mapping[str, Any], allow_user_code: bool) -> Any:
    """The world that tasks brought along, built from its settings."""
    refuse_user_code(block, allow_user_code=allow_user_code)
    try:
        return build("environment", block, "spec.environment")
    except ConfigError as error:
        raise ArtifactError(f"the world of this phi's tasks cannot be built here: {error}") from error


def with_outputs(spec: TaskSpec, outputs: int | None) -> TaskSpec:
    """The same tasks with another number of outputs; None changes nothing."""
    return spec if outputs is None else replace(spec, outputs=outputs)
