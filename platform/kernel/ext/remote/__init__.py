"""Contracts between processes over HTTP, and the internal channel for other extensions."""
