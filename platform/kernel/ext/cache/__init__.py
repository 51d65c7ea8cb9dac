"""Cached responses."""
