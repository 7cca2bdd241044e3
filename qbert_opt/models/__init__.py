"""Models: load them, tokenize texts for them, and find their matrices by structure."""
