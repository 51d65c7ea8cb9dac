"""Contracts between processes: the same protocol, over HTTP."""
