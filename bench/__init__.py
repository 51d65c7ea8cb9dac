"""Measures the application against other ways of writing it: `python -m bench`."""
