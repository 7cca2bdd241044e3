"""Measure this machine with an engine: time kernels and small synthetic models, and write a device file.

`benches/` has one file per engine. `bandwidth` measures memories, `kernels` defines what is timed, `fitting` fits the
correction from kernels to whole models, and `calibrate` runs everything in order.
"""
