"""The dependency `Cache`, with which a module invalidates its cached responses."""

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import after_commit
from kernel.ext.cache.response_cache import ResponseCache
from kernel.web.context import CurrentContext, Session


class ModuleCache:
    """Invalidates the cached responses of one module."""

    def __init__(
        self, forget: Callable[[Collection[str]], Awaitable[None]], module: str, session: AsyncSession
    ) -> None:
        self._forget = forget
        self._module = module
        self._session = session

    async def forget(self, *tags: str) -> None:
        """Invalidate what the module's routes have `cached` with one of these tags. Raises TypeError in a GET.

        It happens now, because the process could end after the commit, and again after the commit, because a request
        that reads before it still gets the old rows.
        """
        names = [f"{self._module}:{tag}" for tag in tags]
        after_commit(self._session, partial(self._forget, names))
        await self._forget(names)


async def _cache(context: CurrentContext, session: Session) -> ModuleCache:
    return ModuleCache(context.kernel.get(ResponseCache).forget, context.require_module().name, session)


Cache = Annotated[ModuleCache, Depends(_cache)]
"""For message handlers, and for routes that change something: `await cache.forget("event:7")`."""
