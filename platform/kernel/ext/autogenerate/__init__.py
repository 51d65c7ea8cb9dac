"""Comparisons and migrations beyond plain Alembic: check constraints, enum types, and a module's own types."""
