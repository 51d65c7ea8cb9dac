"""Who asks."""

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from kernel.web.context import request_context


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who has said who they are."""

    # The token's `sub`: unique at its issuer, never reused.
    subject: str
    # What they may do: `events:write`. Those of their roles are among them.
    scopes: frozenset[str] = frozenset()
    issuer: str = "local"

    def may(self, *scopes: str) -> bool:
        """Whether they have all of these scopes. `*` is every scope, `events:*` every one of events."""
        return all(
            scope in self.scopes or "*" in self.scopes or f"{scope.partition(':')[0]}:*" in self.scopes
            for scope in scopes
        )

    @property
    def key(self) -> str:
        """What tells this caller from every other, whatever their issuer."""
        return f"{self.issuer}|{self.subject}"


class Authentication(Protocol):
    """How the application finds out who asks."""

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Who asks; None without credentials.

        Raises Unauthorized for credentials that do not hold, Unavailable if they cannot be checked now.
        """


async def principal_of(connection: HTTPConnection) -> Principal | None:
    """A dependency: who asks, found out once for each request; None without credentials. Raises as Authentication."""
    context = request_context(connection)
    if not context.is_identified:
        context.principal = await context.kernel.authentication.identify(connection)
        context.is_identified = True
    return context.principal
