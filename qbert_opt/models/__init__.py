"""Real models: loading them, feeding them, finding their matrices by structure."""
