"""The caller of a request."""

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from kernel.web.context import request_context
from kernel.web.problems import Unauthorized


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    # The token's `sub`: unique at its issuer, never reused.
    subject: str
    # Permissions such as `events:write`, including those of the caller's roles.
    scopes: frozenset[str] = frozenset()
    issuer: str = "local"

    def may(self, *scopes: str) -> bool:
        """Return whether the caller has all of these scopes. `*` is every scope, `events:*` every scope of events."""
        return all(
            scope in self.scopes or "*" in self.scopes or f"{scope.partition(':')[0]}:*" in self.scopes
            for scope in scopes
        )

    @property
    def key(self) -> str:
        """The unique identifier of this caller across issuers."""
        return f"{self.issuer}|{self.subject}"


DEVELOPER = Principal("developer", frozenset({"*"}))


class Authentication(Protocol):
    """Identifies the caller of a request."""

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return the caller, or None without credentials.

        Raises Unauthorized if the credentials are not valid, and Unavailable if they cannot be verified now.
        """


async def principal_of(connection: HTTPConnection) -> Principal | None:
    """Return the caller, identified once per request, or None without credentials. Raises like Authentication."""
    context = request_context(connection)
    if not context.is_identified:
        context.principal = await context.kernel.authentication.identify(connection)
        context.is_identified = True
    return context.principal


class DeveloperOnly:
    """Implements Authentication without credentials: every caller is the developer."""

    async def identify(self, connection: HTTPConnection) -> Principal:
        """Return the developer."""
        return DEVELOPER


def unauthorized(error: str | None, detail: str) -> Unauthorized:
    """Return a 401 with the challenge of RFC 6750, section 3. `error` is None if no token was sent."""
    challenge = 'Bearer realm="api"' + (f', error="{error}"' if error else "")
    return Unauthorized(detail, headers={"WWW-Authenticate": challenge})
