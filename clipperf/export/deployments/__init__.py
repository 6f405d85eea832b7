"""Layouts of folders for servers and libraries: one file each, found by its name."""
