"""Accuracy: datasets, metrics, and what each runtime keeps."""
