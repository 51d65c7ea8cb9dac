"""The dependency `idempotent`: `dependencies=[requires(...), idempotent]` on a route or a router."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException

from kernel.auth.policy import Requires, calls_of, dependant_of, name_of
from kernel.ext.idempotency.keys import IdempotencyKeys
from kernel.modules.manifest import module_context
from kernel.web.context import Session
from kernel.web.routes import routes_of

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Printable and without quotes inside. The draft writes a key in quotes, most clients without.
_PATTERN = r'^("[!#-~]{1,200}"|[!#-~]{1,200})$'
_KEY = re.compile(_PATTERN)


async def _idempotent(
    request: Request,
    session: Session,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="A name of your choice for this request, new for each request (a UUID). A repeated request "
            "with the same key gets the first response again, and has no second effect.",
            json_schema_extra={"pattern": _PATTERN},
        ),
    ] = None,
) -> None:
    if key is None or request.method in _SAFE_METHODS:
        return
    if len(request.headers.getlist("idempotency-key")) > 1 or not _KEY.fullmatch(key):
        raise HTTPException(400, "Idempotency-Key must be one name of 1 to 200 printable characters without spaces.")
    await module_context(request).get(IdempotencyKeys).claim(request, session, key.strip('"'))


idempotent: Any = Depends(_idempotent, scope="function")
"""For routes whose requests may be repeated with their key: `dependencies=[requires(...), idempotent]`.

Dependencies run in order: put it behind the policy, and before everything that reads the database.
"""


def check_routes(router: APIRouter) -> Iterator[str]:
    """Yield the idempotent routes without a principal: one caller would get the response to another's request."""
    for context in routes_of(router):
        calls = list(calls_of(dependant_of(context)))
        if _idempotent in calls and not any(isinstance(one, Requires) for one in calls):
            route = name_of(context)
            yield f"{route} is idempotent, but does not know whose keys it gets: put requires(...) before idempotent."
