"""What every row of results has in common: the machine, and figures of a few digits."""

from __future__ import annotations

import os
import platform
from typing import Any

from qbert_opt.device_profiling.board.machine import processor_name


def machine() -> str:
    """Return this machine's processor, cores and operating system."""
    return f"{processor_name()}, {os.cpu_count()} shared cores, {platform.system()}"


def rounded(value: Any, digits: int = 4) -> Any:
    """Return a value with every float rounded to some significant digits, inside dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
