"""Datasets to vectors in shards, exactly once, whatever happens in between."""
