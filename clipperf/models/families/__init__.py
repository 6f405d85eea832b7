"""One file a family of models; see `clipperf.models.family`."""
