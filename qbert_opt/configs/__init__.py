"""A plan in another tool's words."""
