"""What a rule found, and how it is shown to people, programs and pull requests."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

# The rule of what keeps the others from being looked at.
COULD_NOT_CHECK = "could-not-check"


@dataclass(frozen=True, order=True)
class Finding:
    """One breach of one rule."""

    # Below the project's root, with slashes; the file that has to change.
    path: str
    # From 1. 0 where it is the whole file or folder that is meant.
    line: int
    rule: str
    # One sentence: what is there, and why it may not be.
    why: str
    # One sentence: what to do instead.
    instead: str


def as_text(findings: Sequence[Finding]) -> str:
    """For people: a finding a paragraph, in the order of the files."""
    return "\n\n".join(
        f"{found.path}:{found.line}: {found.rule}\n  {found.why}\n  Instead: {found.instead}" for found in findings
    )


def as_json(findings: Iterable[Finding]) -> str:
    """For programs: a list of objects with the fields of Finding."""
    return json.dumps([asdict(found) for found in findings], indent=2)


def as_github(findings: Iterable[Finding]) -> str:
    """For pull requests: GitHub's workflow commands, which become annotations at the lines.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    return "\n".join(
        f"::error file={_property(found.path)},line={max(found.line, 1)},title={_property(found.rule)}"
        f"::{_data(f'{found.why} Instead: {found.instead}')}"
        for found in findings
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
