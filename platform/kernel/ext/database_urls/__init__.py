"""Refuses parameters of database URLs that would have no effect or fail, before anything connects."""
