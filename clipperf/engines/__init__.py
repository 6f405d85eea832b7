"""Towers running: a module for each library, a file in `runtimes` for each runtime."""
