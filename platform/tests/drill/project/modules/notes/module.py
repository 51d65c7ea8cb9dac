"""The manifest of notes."""

from kernel import Module

module = Module(owner="drill-team")
