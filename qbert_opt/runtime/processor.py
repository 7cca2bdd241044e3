"""What this processor can do that decides whether an engine's integers are exact."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

X86 = ("x86_64", "amd64", "i386", "i686")
VNNI = frozenset({"avx_vnni", "avx512_vnni"})  # as Linux names them
CPUINFO = Path("/proc/cpuinfo")


@cache
def has_vnni() -> bool:
    """Return whether this processor is known to have VNNI; False also where it cannot be asked, outside Linux."""
    if platform.machine().lower() not in X86 or not CPUINFO.exists():
        return False
    lines = (line for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if line[:5] == "flags")
    return bool(VNNI & set(next(lines, "").split()))


def sums_bytes_exactly() -> bool:
    """Return whether sums of 8-bit products are exact on this processor, whatever the engine.

    On x86, VNNI instructions add them in 32 bits. Without VNNI, pairs are added in 16 bits, where two large products of
    an unsigned and a signed byte saturate: 2 · 255 · 127 > 2¹⁵ - 1.

    Returns:
        True also where the processor cannot be asked, that is, outside Linux.

    Source: oneDNN, "Nuances of int8 computations".
    """
    return platform.machine().lower() not in X86 or not CPUINFO.exists() or has_vnni()
