"""Extensions with errors, and two that record the calls of their hooks."""
