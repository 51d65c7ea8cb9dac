"""Findings, and their output for people, programs and pull requests."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

# The rule of findings that state why another rule could not be checked.
COULD_NOT_CHECK = "could-not-check"


@dataclass(frozen=True, order=True)
class Finding:
    """One violation of one rule."""

    # The file that has to change, below the project's root, with slashes.
    path: str
    # From 1; 0 for the whole file or folder.
    line: int
    rule: str
    # One sentence: what is wrong, and why.
    why: str
    # One sentence: what to do instead.
    instead: str


def as_text(findings: Sequence[Finding]) -> str:
    """Return one paragraph for each finding, for people."""
    return "\n\n".join(
        f"{found.path}:{found.line}: {found.rule}\n  {found.why}\n  Instead: {found.instead}" for found in findings
    )


def as_json(findings: Iterable[Finding]) -> str:
    """Return a list of objects with the fields of Finding, for programs."""
    return json.dumps([asdict(found) for found in findings], indent=2)


def as_github(findings: Iterable[Finding]) -> str:
    """Return GitHub's workflow commands, which become annotations of a pull request.

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
