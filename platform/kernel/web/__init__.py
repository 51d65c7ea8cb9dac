"""HTTP around the modules: request context, dispatch by prefix, sessions, problem details, conditional requests."""
