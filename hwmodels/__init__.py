"""Pure hardware: what a device is, what an operation costs on it, what fits where.

Import what you need from the module that owns it; this file stays empty so that reading a unit does not
load a graph library: `device` (descriptions), `units` (quantities), `operation` (the work), `cost` (price
of one operation), `memory` (live ranges), `simulate` (price of a whole graph), `mix` (a histogram of
lengths), `measured` (a device file from measurements), `provenance` (where figures come from).
"""
