"""Statements on the driver and compiled endpoints: the same responses in less time."""
