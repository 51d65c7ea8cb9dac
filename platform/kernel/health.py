"""Health checks: all components are checked at once, each with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Check = Callable[[], Awaitable[None]]
"""Returns if the component works, and raises if it does not."""


class Degraded(Exception):
    """Raised by a check: the component has a problem that neither a restart nor fewer requests would solve."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. `problem` is None if the component works."""

    component: str
    problem: str | None
    duration_ms: float
    # The problem is reported, and the process stays ready.
    is_degraded: bool = False


async def run_checks(checks: Mapping[str, Check], deadline_seconds: float) -> list[Finding]:
    """Run all checks at once. A check that takes longer than the deadline fails."""
    return list(await asyncio.gather(*(_run(name, check, deadline_seconds) for name, check in checks.items())))


async def _run(component: str, check: Check, deadline_seconds: float) -> Finding:
    started_at = time.perf_counter()
    problem, is_degraded = None, False

    async def ask() -> None:
        await check()

    asked = asyncio.create_task(ask())
    try:
        # asyncio.timeout would wait for the end of the cancelled check: closing a connection may take seconds.
        done, _ = await asyncio.wait([asked], timeout=deadline_seconds)
        if done:
            asked.result()
        else:
            problem = f"no answer within {deadline_seconds:g} s"
    except Degraded as error:
        problem, is_degraded = str(error), True
    except Exception as error:  # noqa: BLE001  # whatever a check raises is its result
        problem = f"{type(error).__name__}: {error}"
    finally:
        if asked.cancel():
            asked.add_done_callback(_discard)
    return Finding(component, problem, round((time.perf_counter() - started_at) * 1000, 2), is_degraded)


def _discard(asked: "asyncio.Task[None]") -> None:
    """Take the exception of a check that was too late, which asyncio would log otherwise."""
    if not asked.cancelled():
        asked.exception()
