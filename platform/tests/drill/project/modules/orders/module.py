"""The manifest of orders."""

from kernel import Module

module = Module(owner="drill-team")
