"""Engines that run a quantized model; one file each."""
