"""What this machine's processor is good at: which of two ways to compute the same is the faster one."""

from __future__ import annotations

from pathlib import Path

__all__ = ["AMD", "vendor"]


def vendor() -> str:
    """Maker of the CPU as Linux names it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


AMD = vendor() == "AuthenticAMD"
"""Intel's library, which torch calls for matrix products and for ``tanh``, is slower on these."""
