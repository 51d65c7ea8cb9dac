"""Driver-level statements and compiled endpoints: the same answers in less time."""
