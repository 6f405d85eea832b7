"""One module a format, which holds it as `FORMAT`."""
