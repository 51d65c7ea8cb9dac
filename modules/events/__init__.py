"""Calendar events: what takes place where and when, and with which picture."""
