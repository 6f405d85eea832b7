"""Measuring: what to run, in which process, and what it costs and keeps."""
