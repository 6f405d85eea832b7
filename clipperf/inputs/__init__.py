"""Bytes and strings to the arrays that towers take, without torch."""
