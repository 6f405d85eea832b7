"""One file a way to make a tower."""
