"""HTTP/2 for the shared HTTP client."""
