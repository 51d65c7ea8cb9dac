"""Conditions on many values, however many a caller chooses: `any_of`, and the rows of many ids: `get_many`."""

from kernel.ext.membership.any_of import any_of
from kernel.ext.membership.many import get_many

__all__ = ["any_of", "get_many"]
