"""The base of errors that tell a developer or operator, in one message, what is wrong with a project."""


class ProjectError(Exception):
    """Stops the start or the command. The message says what failed, where, and what to do."""
