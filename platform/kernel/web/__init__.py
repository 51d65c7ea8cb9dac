"""HTTP around the modules: one ASGI shell, dispatch by prefix, sessions, problem details, conditional requests."""
