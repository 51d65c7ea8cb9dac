"""The command `kernel`."""
