"""Cases for one-history."""

from kernel.ext.boundaries.violations import Case, edit

FIRST = "migrations/left/0001_first.py"
SECOND, THIRD = "migrations/left/0002_second.py", "migrations/left/0003_third.py"


def revision(number: object, after: object) -> str:
    """A revision that does nothing."""
    return f'"""More."""\n\nrevision = {number!r}\ndown_revision = {after!r}\n\n\ndef upgrade() -> None:\n    pass\n'


def two(name: str, first: str, second: str, at: str = THIRD) -> Case:
    """Two revisions beside the one that is there."""
    return Case(name, {SECOND: first, THIRD: second}, at)


ONE_HISTORY = [
    two("two revisions with one number", revision("0002", "0001"), revision("0002", "0001")),
    two("two revisions with one number, one after the other", revision("0002", "0001"), revision("0002", "0002")),
    two("two revisions that follow one", revision("0002", "0001"), revision("0003", "0001")),
    edit("a second first revision", SECOND, revision("0002", None)),
    edit("the number of the first revision", SECOND, revision("0001", None)),
    edit("a revision that follows a missing one", SECOND, revision("0003", "0002")),
    edit(
        "names with types",
        SECOND,
        revision("0001", None).replace("revision =", "revision: str =", 1),
    ),
]
VALID_ONE_HISTORY = [
    two("one after the other", revision("0002", "0001"), revision("0003", "0002")),
    edit("a revision in one line", SECOND, 'revision, down_revision = "0002", "0001"\n'),
    Case(
        "two revisions that a third merges",
        {
            SECOND: revision("0002", "0001"),
            THIRD: revision("0003", "0001"),
            "migrations/left/0004_both.py": revision("0004", ("0002", "0003")),
        },
    ),
    edit("the same number in another module", "migrations/right/0002_second.py", revision("0002", "0001")),
    edit("a number that is only known at run time", SECOND, 'revision = "00" + "02"\ndown_revision = "0001"\n'),
]
