"""Texts and labels from the files that people have, and what is bundled."""
