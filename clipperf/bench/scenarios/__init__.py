"""Ways to drive the cells of a comparison group: one file each."""
