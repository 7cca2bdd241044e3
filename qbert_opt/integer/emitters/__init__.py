"""Programs as artifacts that run elsewhere, one kind per file."""
