"""A stored phi in words."""

from __future__ import annotations

from collections.abc import Mapping

from metasearch.artifacts import Manifest
from metasearch.core.values import Phi

__all__ = ["lines", "one_line"]


def one_line(phi: Phi, manifest: Manifest) -> str:
    """What it is, where from, and the figure it was selected by."""
    found = manifest.provenance
    parts, figures = ", ".join(_parts(phi)) or "no tensors", ", ".join(_figures(found.validation)) or "none"
    return f"LoadedPhi({found.run!r}, step {found.selected_step}: {parts}; validation {figures})"


def lines(phi: Phi, manifest: Manifest, source: str) -> str:
    """The same with more room, and what the tasks and the network were."""
    found, spec = manifest.provenance, manifest.spec
    tasks = "{kind}, inputs {input_shape}, {outputs} outputs".format_map(spec) if "kind" in spec else ""
    network = [str(value) if key == "type" else f"{key} {value}" for key, value in manifest.model.items()]
    rows = {
        "learned": ", ".join(_parts(phi)) or "no tensors",
        "choices": ", ".join(f"{name} = {value}" for name, value in phi.choices.items()),
        "network": ", ".join(network),
        "tasks": tasks,
        "validation": ", ".join(_figures(found.validation)) or "none",
        "search": f"{found.run}, step {found.selected_step}, {found.date}",
        "source": source,
    }
    return "\n".join(["phi", *(f"  {key + ':':<12}{text}" for key, text in rows.items() if text)])


def _parts(phi: Phi) -> list[str]:
    counts: dict[str, int] = {}
    for name, value in phi.tensors.items():
        slot = name.partition(".")[0]
        counts[slot] = counts.get(slot, 0) + value.numel()
    return [f"{slot} {count:,} values" for slot, count in counts.items()]


def _figures(validation: Mapping[str, float]) -> list[str]:
    """``L 0.04 ± 0.01``, one a metric."""
    return [
        f"{name} {value:.4g}" + (f" ± {validation[f'{name}_ci95']:.2g}" if f"{name}_ci95" in validation else "")
        for name, value in validation.items()
        if not name.endswith("_ci95")
    ]
