"""Compressed responses."""
