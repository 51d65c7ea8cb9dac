"""What runs, and with which settings: `kernel modules` and `kernel settings`."""
