"""The manifest of codes."""

from kernel import Module

module = Module(owner="drill-team")
