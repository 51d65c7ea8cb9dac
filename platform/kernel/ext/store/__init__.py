"""The store that the processes of an application share: Redis, or memory in a single process."""

from kernel.ext.store.store import SharedStore

__all__ = ["SharedStore"]
