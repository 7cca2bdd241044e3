"""Metrics: estimators of the loss of a choice; one file each.

A metric defines `LOSS_UNIT`, `NEEDS_LABELS`, `CONTAINS` (what its scores include) and
`score(task, pending) -> Iterator[(matrix index, Estimate)]`; `task` is a `ScoringTask`, and `pending` the matrices that
remain, so that an interrupted run can resume and several processes can share the work. Expensive work that does
not belong to one matrix goes through `task.jobs`.
"""
