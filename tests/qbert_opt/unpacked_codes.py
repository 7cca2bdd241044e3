"""The benchmark that unpacks an engine's file again and looks for our codes and scales in it."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parents[2] / "benchmarks" / "engine_codes.py"
_SPEC = importlib.util.spec_from_file_location("engine_codes", _PATH)
CODES = importlib.util.module_from_spec(_SPEC)
sys.modules["engine_codes"] = CODES
_SPEC.loader.exec_module(CODES)


def assert_our_codes(quantized, exported):
    """Every matrix and table of a quantized folder is in an exported file, bit for bit."""
    same, others = CODES.compared(quantized, exported)
    assert others == [] and same
