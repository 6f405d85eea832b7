"""The metrics: one file each, which holds the record `METRIC`."""
