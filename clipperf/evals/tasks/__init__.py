"""The tasks: one file each, which holds the record `TASK`."""
