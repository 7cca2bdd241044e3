"""Steps of the ladder: one file each, see `phases.Step`."""
