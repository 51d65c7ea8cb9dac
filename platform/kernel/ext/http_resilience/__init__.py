"""Retries, a circuit breaker and a limit of concurrent calls for each upstream of the HTTP client."""
