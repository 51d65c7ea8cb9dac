"""The manifest of visits."""

from kernel import Module

module = Module(owner="drill-team")
