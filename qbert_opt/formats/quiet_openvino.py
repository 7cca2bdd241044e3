"""OpenVINO without its telemetry.

Importing it sends a message to Google Analytics from a process of its own, waits for that for up to three seconds, and
leaves files in the home folder, unless its user has opted out. Where the package that does so is missing, OpenVINO
takes a stand-in that does nothing. So the package is hidden while OpenVINO is imported for the first time.
"""

from __future__ import annotations

import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"
_modules: dict[str, Any] = sys.modules  # None stands for a module that cannot be imported
_hidden = _TELEMETRY not in _modules
if _hidden:
    _modules[_TELEMETRY] = None
try:
    import openvino as ov
    from openvino import opset13 as op
finally:
    if _hidden:
        del _modules[_TELEMETRY]

__all__ = ["op", "ov"]
