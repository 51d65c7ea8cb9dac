"""Print progress while measuring, and at the end one table for people and one file for programs."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["yes", "partly", "no", "for information"]

# The libraries on which the figures depend most.
_LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "sqlalchemy", "asyncpg", "pydantic", "httpx2")
_STARTED_AT = time.monotonic()


@dataclass(frozen=True)
class Finding:
    """The result of one measurement."""

    about: str
    # For a claim, the measurement; for growth, the aim.
    measured: str
    figure: str
    holds: Verdict
    # The same values for programs: seconds, MiB and ratios by name.
    values: Mapping[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """Print a line of progress to standard error, so that standard output contains only the table."""
    print(f"[{time.monotonic() - _STARTED_AT:5.1f} s] {text}", file=sys.stderr, flush=True)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


def table(headings: Sequence[str], findings: Sequence[Finding]) -> str:
    """Return the findings as a Markdown table; `headings` name the four columns."""
    return markdown(headings, [(one.about, one.measured, one.figure, one.holds) for one in findings])


def write_json(file: Path, findings: Sequence[Finding], *, quick: bool) -> None:
    """Write the findings and the conditions of the measurement as JSON. No value names the machine."""
    document = {
        "quick": quick,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "findings": [asdict(finding) for finding in findings],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")


def interleaved(turns: int, contestants: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return each contestant's figures from `turns` turns.

    All contestants take part in each turn, every other time in reverse order, so that other load on the machine affects
    all of them alike.
    """
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            figures[name].append(contestants[name]())
    return figures


def verdict(*fulfilled: bool) -> Verdict:
    """Return "yes" if all parts of the claim hold, and "partly" if only some do."""
    return "yes" if all(fulfilled) else "partly" if any(fulfilled) else "no"
