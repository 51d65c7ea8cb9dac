"""Notes that can be created, read, changed and deleted. This module uses no extension."""
