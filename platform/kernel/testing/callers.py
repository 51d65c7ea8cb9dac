"""Send requests to an application under test as a given caller, without a provider of tokens."""

from starlette.requests import HTTPConnection

from kernel.application import Application
from kernel.auth.bearer import unauthorized
from kernel.auth.principal import Principal


class Callers:
    """The Authentication of the application from here on. Who sends nothing is nobody; no other token holds."""

    def __init__(self, application: Application) -> None:
        self._known: dict[str, Principal] = {}
        application.kernel.authentication = self

    def headers(self, subject: str, *scopes: str) -> dict[str, str]:
        """What to send to be this caller: `client.get(path, headers=callers.headers("alice", "events:read"))`."""
        value = f"Bearer test-{len(self._known)}"
        self._known[value] = Principal(subject, frozenset(scopes))
        return {"Authorization": value}

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """See kernel.auth.principal."""
        sent = connection.headers.get("authorization")
        if sent is not None and sent not in self._known:
            raise unauthorized("invalid_token", "No caller of this test.")
        return None if sent is None else self._known[sent]
