"""The extension `inspection`."""

from kernel.extension import Extension


class Inspection(Extension):
    """Lists the modules and the settings on the command line: see cli.py."""

    name = "inspection"
