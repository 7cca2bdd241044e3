"""Model and text to a table of scores."""
