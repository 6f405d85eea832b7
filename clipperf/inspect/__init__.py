"""What a file or folder is, and what can run here."""
