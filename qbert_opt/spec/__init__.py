"""The nouns: choices, profiles, limits, scores, plans."""
