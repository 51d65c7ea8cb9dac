"""Extensions with faults, and two that record the calls of their hooks."""
