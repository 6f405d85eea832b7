"""Ways to machines: one file each."""
