"""Plots, one file per figure; each defines `draw(...) -> Figure`."""
