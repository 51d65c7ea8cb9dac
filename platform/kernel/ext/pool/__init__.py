"""A fair connection pool with a deadline, a watchdog for silent connections, and quotas per module."""
