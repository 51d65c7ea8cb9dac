"""Cached responses."""

from kernel.ext.cache.cache import Cache, ModuleCache, cached

__all__ = ["Cache", "ModuleCache", "cached"]
