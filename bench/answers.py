"""Verify that all applications give the same answers; otherwise their figures cannot be compared."""

import re
from collections.abc import Mapping
from typing import Any

from bench.database import Tables
from bench.errors import BenchmarkError
from bench.inprocess import Worker
from bench.scenarios import Scenario, recipe_for

_ASKED = 3
_COMPARED_HEADERS = ("content-type", "etag", "location")
# Values that differ between runs: timestamps, and cursors, which each application encodes in its own way.
_MASKS = (
    (re.compile(r'"(created_at|updated_at)":"[^"]*"'), r'"\1":"…"'),
    (re.compile(r'"next_cursor":"[^"]*"'), '"next_cursor":"…"'),
)
_MADE_ID = (re.compile(r'"id":\d+'), '"id":…')


async def check(scenario: Scenario, workers: Mapping[str, Worker], tables: Tables) -> None:
    """Send the same requests to every application and compare the answers.

    Raises BenchmarkError with the first difference.
    """
    expected: tuple[str, list[str]] | None = None
    for name in scenario.apps:
        if name not in workers:
            continue
        recipe = recipe_for(scenario, _ASKED, workers[name].cursors)
        await tables.reset(scenario.rows_for(_ASKED), will_write=scenario.writes)
        answers = [
            comparable(await workers[name].do("show", recipe, number), masks_ids=scenario.writes)
            for number in range(_ASKED)
        ]
        if not all(answer.startswith("2") for answer in answers):
            raise BenchmarkError(
                f"{name} does not succeed in {scenario.title!r}: it answers\n  {answers[0][:600]}\n"
                f"{workers[name].last_logged()}"
            )
        if expected is None:
            expected = (name, answers)
        for ours, theirs in zip(answers, expected[1], strict=True):
            if ours != theirs:
                raise BenchmarkError(
                    f"{name} and {expected[0]} answer {scenario.title!r} differently:\n"
                    f"  {name}: {ours[:600]}\n  {expected[0]}: {theirs[:600]}"
                )


def comparable(answer: Mapping[str, Any], *, masks_ids: bool) -> str:
    """Return the status, some headers and the body byte for byte as text, without the values that may differ."""
    body = answer["body"]
    for pattern, replacement in (*_MASKS, *([_MADE_ID] if masks_ids else [])):
        body = pattern.sub(replacement, body)
    headers = {name: answer["headers"].get(name, "-") for name in _COMPARED_HEADERS}
    if not body:  # FastAPI sends a Content-Type even for an empty body.
        del headers["content-type"]
    headers["location"] = re.sub(r"\d+$", "…", headers["location"])
    return f"{answer['status']} {' '.join(f'{name}={value}' for name, value in headers.items())} {body}"
