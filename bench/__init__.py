"""Compare the speed of this application with other implementations: `python -m bench`."""
