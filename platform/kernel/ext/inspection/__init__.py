"""The commands `kernel modules` and `kernel settings`, which list the modules and the settings in use."""
