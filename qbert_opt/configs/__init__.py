"""Configs: plans in the formats of other quantization tools."""
