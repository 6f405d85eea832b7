"""What the child process of an export does."""
