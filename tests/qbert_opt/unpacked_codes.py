"""The benchmark that unpacks an engine's file again and looks for our codes and scales in it."""

from benchmarks.engines import engine_codes


def assert_our_codes(quantized, exported):
    """Every matrix and table of a quantized folder is in an exported file, bit for bit."""
    same, others = engine_codes.compared(quantized, exported)
    assert others == [] and same
