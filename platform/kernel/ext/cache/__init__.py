"""Cached responses: `cached` for routes that read, and `Cache` to invalidate them."""

from kernel.ext.cache.cache import Cache, ModuleCache
from kernel.ext.cache.cached import cached

__all__ = ["Cache", "ModuleCache", "cached"]
