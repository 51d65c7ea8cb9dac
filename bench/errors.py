"""The error that ends a run."""


class BenchmarkError(Exception):
    """A step failed, so the figures would have no meaning. The message names the step."""
