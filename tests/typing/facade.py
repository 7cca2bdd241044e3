"""What a type checker must see of the facade; `make test` runs mypy on this file, nothing runs it."""

from typing import assert_type

import qbert_opt as qb

scores = qb.reference_scores()
assert_type(scores, qb.ScoreTable)
device = qb.load_device("car-soc")
assert_type(device, qb.Device)
constraints = qb.PlanConstraints(pins={"layer.0.": 8}, max_formats=3)
plan = qb.allocate(scores, qb.Limits(encoder_bytes=25_000_000), device=device, constraints=constraints)
assert_type(plan, qb.Allocation)
assert_type(qb.simulate_allocation(plan, device, qb.Workload()), qb.CostReport)
members = qb.family(scores, qb.layer_drops(qb.load_model("model"), qb.read_texts("text.tsv"), 2), "bytes", points=6)
assert_type(members[0].plan, qb.Allocation)
assert_type(qb.optimize("model", "text.tsv", "out", budget="25MB"), qb.Optimized)
nothing = qb.nonsense  # type: ignore[attr-defined]
qb.PlanConstraints(pinz={})  # type: ignore[call-arg]
