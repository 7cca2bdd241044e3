"""Estimators of the loss that a choice costs; one file each.

A metric defines `LOSS_UNIT`, `NEEDS_LABELS`, `CONTAINS` (what its scores contain) and
`score(task, pending) -> Iterator[(matrix index, Estimate)]`; `task` is a `ScoringTask`, `pending` the matrices still to
score, so that an interrupted run can go on where it stopped and several processes share the work. What costs much and
is not of one matrix goes through `task.jobs`.
"""
