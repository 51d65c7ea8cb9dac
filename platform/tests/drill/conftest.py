"""The tests of the drill's own project run only in its copies."""

collect_ignore = ["project"]
