"""What ends a run."""


class BenchmarkError(Exception):
    """Something did not work, so that no figure would mean anything. Says what."""
