"""Measuring this machine: kernels and small synthetic models of an engine become a device file.

`benches/` holds one file per engine; `timing` the clock, `bandwidth` the memories, `kernels` what is timed,
`fitting` how whole models correct the sum of kernels, `calibrate` all of it in order.
"""
