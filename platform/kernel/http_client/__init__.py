"""The shared client for outgoing HTTP calls."""
