"""The manifest of rates."""

from kernel import Module

module = Module(owner="drill-team")
