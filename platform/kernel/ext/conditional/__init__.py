"""Conditional requests: `Conditional` sets the ETag of a response, `ExpectedVersions` reads `If-Match`."""

from kernel.ext.conditional.conditional import Conditional, ExpectedVersions, matches

__all__ = ["Conditional", "ExpectedVersions", "matches"]
