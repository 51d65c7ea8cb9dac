"""Rate limits: for each caller, for each route, and for the whole application."""
