"""The manifest of payments."""

from kernel import Module

module = Module(owner="drill-team")
