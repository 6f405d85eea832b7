"""Exported models in use: images and strings in, embeddings out."""
