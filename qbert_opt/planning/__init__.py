"""From scores, costs and limits to a plan, its proof and its trade-offs."""
