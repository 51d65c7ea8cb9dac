"""Chores on the command line. This module uses the extension module_commands."""
