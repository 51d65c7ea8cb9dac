"""Bearer tokens for development: `kernel token` signs them, and the application accepts them in LOCAL only."""
