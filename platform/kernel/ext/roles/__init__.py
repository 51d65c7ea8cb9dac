"""Two PostgreSQL roles per module: the owner of its schema, and one for its rows only."""
