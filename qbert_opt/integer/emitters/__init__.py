"""Emitters, which write programs as files for other tools, one per file."""
