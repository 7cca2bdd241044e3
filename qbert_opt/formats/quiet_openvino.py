"""OpenVINO without its telemetry.

Unless the user has opted out, importing OpenVINO sends a message to Google Analytics from a separate process, waits for
it for up to three seconds, and leaves files in the home folder. If the package that does so is missing, OpenVINO uses a
stub that does nothing. We therefore hide the package while OpenVINO is imported for the first time.
"""

from __future__ import annotations

import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"
_modules: dict[str, Any] = sys.modules  # None: the module cannot be imported
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
