"""What Alembic does not compare or write by itself: check constraints, enum types, and types of a module's own."""
