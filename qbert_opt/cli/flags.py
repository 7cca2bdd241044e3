"""Errors worded for the command line: a Python parameter in backquotes becomes the flag that sets it."""

from __future__ import annotations

import re

ALIASES = {
    "activation_choices": "--activation-bits",
    "bandwidth_bytes_per_s": "--max-bandwidth",
    "bops": "--max-bops",
    "dram_bytes": "--max-dram-bytes",
    "encoder_bytes": "--budget",
    "energy_j": "--max-energy",
    "excluded": "--exclude",
    "inferences_per_s": "--rate",
    "latency_s": "--max-latency",
    "limit_s": "--seconds",
    "memory_bytes": "--max-memory",
    "memory_limit_bytes": "--memory-limit",
    "num_calibration": "--calibration-samples",
    "num_scored": "--scoring-samples",
    "num_pool": "--scoring-pool",
    "pins": "--pin",
    "resources": "--resource",
    "scratchpad_bytes": "--max-scratchpad",
    "text_columns": "--text-column",
    "table_choices": "--table-bits",
    "texts": "--data",
    "ties": "--tie",
    "tokens_per_s": "--min-tokens-per-s",
    "total_bytes": "--total-budget",
}
"""Parameters whose flag has another name; every other flag is its parameter with `-` for `_`."""
_PARAMETER = re.compile(r"`([a-z][a-z_]*)`")


def in_flags(message: str) -> str:
    """Return a message with the flag in place of each parameter in backquotes.

    Args:
        message: message of an error that was raised below the command line.

    >>> in_flags("`pins` query=9: legal: 2, 3, 4, 8; see `max_loss`.")
    '--pin query=9: legal: 2, 3, 4, 8; see --max-loss.'
    """
    return _PARAMETER.sub(lambda match: ALIASES.get(match[1], "--" + match[1].replace("_", "-")), message)
