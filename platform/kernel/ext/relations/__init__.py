"""Schemas with related rows in them: a repository reads each relationship by one more statement."""

from kernel.ext.relations.schema import RelatedSchema

__all__ = ["RelatedSchema"]
