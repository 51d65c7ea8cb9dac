"""The dependency `limited`: `dependencies=[limited("10/minute")]` on a route or a router."""

from typing import Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from kernel.ext.rate_limit.rate_limiter import RateLimiter
from kernel.ext.rate_limit.settings import check_limit
from kernel.modules.manifest import module_context
from kernel.web.context import request_context


def limited(limit: str) -> Any:
    """Return a dependency that allows each caller so many requests. Raises ValueError.

    On a router, it limits each of its routes separately. Several limits: `10/second; 1000/day`.
    """
    return Depends(Limited(limit))


class Limited:
    """A dependency: see `limited`."""

    def __init__(self, limit: str) -> None:
        from limits import parse_many  # noqa: PLC0415

        self._items = parse_many(check_limit(limit))

    async def __call__(self, connection: HTTPConnection) -> None:
        """Count the request. Raises HTTPException."""
        module, route = module_context(connection).name, connection.scope["route"]
        handler = getattr(route.endpoint, "__qualname__", "")  # two routers may contain the same path
        limiter = request_context(connection).kernel.get(RateLimiter)
        name = f"{module} {' '.join(sorted(getattr(route, 'methods', ())))} {route.path} {handler}"
        await limiter.check(connection, "route", name, self._items)

    # FastAPI calls equal dependencies of a request once.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limited) and other._items == self._items

    def __hash__(self) -> int:
        return hash(tuple(self._items))
