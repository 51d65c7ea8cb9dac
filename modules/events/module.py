"""The manifest of events."""

from kernel import Module

module = Module(owner="calendar-team", depends_on={"images"})
