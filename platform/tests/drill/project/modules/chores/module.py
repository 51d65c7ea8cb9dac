"""The manifest of chores."""

from kernel import Module

module = Module(owner="drill-team")
