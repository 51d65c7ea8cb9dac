"""A server for production: workers, drain, limits for slow and greedy clients, and auto-reload that answers."""
