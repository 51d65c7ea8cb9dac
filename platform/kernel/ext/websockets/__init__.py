"""WebSockets of modules."""
