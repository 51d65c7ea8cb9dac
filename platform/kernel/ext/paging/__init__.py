"""Pages of a list, by offset or by cursor: derive a repository from PagedRepository, a query from PageRequest."""

from kernel.ext.paging.pages import Page, PagedRepository, PageRequest
from kernel.ext.paging.sort import InvalidCursor, Sort

__all__ = ["InvalidCursor", "Page", "PageRequest", "PagedRepository", "Sort"]
