"""Calendar events, each with an optional image."""
