"""The machine: files, folders and locks, processes, what is installed, what a user is told."""
