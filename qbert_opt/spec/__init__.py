"""The data types: choices, profiles, limits, scores, plans."""
