"""Exact search: bounds, good plans, partial plans, engines and the proof that is left."""
