"""One file a protocol of model servers; see `clipperf.engines.endpoint`."""
