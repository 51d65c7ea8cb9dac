"""Health checks: what each component says of itself, asked together, each with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Check = Callable[[], Awaitable[None]]
"""Returns when the component is well, and raises when it is not."""


class Degraded(Exception):
    """Raised by a check: the component is not well, but to restart us or to send nobody to us would not help."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `problem` is None when the component is well."""

    component: str
    problem: str | None
    duration_ms: float
    # Reported, and no reason not to be ready.
    is_degraded: bool = False


async def run_checks(checks: Mapping[str, Check], deadline_seconds: float) -> list[Finding]:
    """Run all checks at once; one that takes longer than the deadline counts as failed."""
    return list(await asyncio.gather(*(_run(name, check, deadline_seconds) for name, check in checks.items())))


async def _run(component: str, check: Check, deadline_seconds: float) -> Finding:
    started_at = time.perf_counter()
    problem, is_degraded = None, False

    async def ask() -> None:
        await check()

    asked = asyncio.create_task(ask())
    try:
        # Not asyncio.timeout, which waits for the end of what it cancels: to give up a connection may take seconds.
        done, _ = await asyncio.wait([asked], timeout=deadline_seconds)
        if done:
            asked.result()
        else:
            problem = f"no answer within {deadline_seconds:g} s"
    except Degraded as error:
        problem, is_degraded = str(error), True
    except Exception as error:  # noqa: BLE001  # whatever a check raises is its finding
        problem = f"{type(error).__name__}: {error}"
    finally:
        if asked.cancel():
            asked.add_done_callback(_let_go)
    return Finding(component, problem, round((time.perf_counter() - started_at) * 1000, 2), is_degraded)


def _let_go(asked: "asyncio.Task[None]") -> None:
    """Nobody waits for it any more; what it raises at its end, nobody needs to know."""
    if not asked.cancelled():
        asked.exception()
