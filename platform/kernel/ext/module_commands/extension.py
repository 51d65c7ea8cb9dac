"""The extension `module_commands`."""

from kernel.extension import Extension


class ModuleCommands(Extension):
    """Adds the commands of each module to the command line: see cli.py."""

    name = "module_commands"
