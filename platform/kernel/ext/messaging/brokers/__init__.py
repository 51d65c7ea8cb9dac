"""One file for each kind of broker, loaded when its URL is configured."""
