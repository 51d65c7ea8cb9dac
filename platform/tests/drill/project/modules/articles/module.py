"""The manifest of articles."""

from kernel import Module

module = Module(owner="drill-team")
