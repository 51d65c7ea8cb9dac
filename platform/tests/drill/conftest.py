"""The project's own tests run in the copies of the drill alone."""

collect_ignore = ["project"]
