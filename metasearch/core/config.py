"""The base of every part's ``Config``: a frozen pydantic model that rejects what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from metasearch.core.errors import ConfigError, nearest

__all__ = ["Config", "overlay", "validate"]


class Config(BaseModel):
    """Settings of one part. Subclass it as ``Config`` inside the part's class; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


C = TypeVar("C", bound=Config)


def validate(model: type[C], values: Mapping[str, Any], path: str = "") -> C:
    """Settings checked against their model.

    Raises:
        ConfigError: naming the first offending key by its dotted path, what was expected, what came and, for an unknown
            key, the nearest valid one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error" and isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):
            raise cause.under(".".join(part for part in (path, *map(str, first["loc"])) if part)) from None
        where = ".".join(str(part) for part in (path, *first["loc"]) if str(part))
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                where, f"unknown key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
            ) from None
        if first["type"] == "missing":
            raise ConfigError(where, "is required and was not given") from None
        raise ConfigError(where, f"{first['msg'].removeprefix('Value error, ')} (got {first['input']!r})") from None


def overlay(base: Any, over: Any) -> Any:
    """Two trees, the second on top.

    Mappings merge key by key unless they name different types; anything else replaces.
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if "type" in over and "type" in base and over["type"] != base["type"]:
        return dict(over)
    return {**base, **{key: overlay(base[key], value) if key in base else value for key, value in over.items()}}


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the (possibly nested) model in which an unknown key was found."""
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
