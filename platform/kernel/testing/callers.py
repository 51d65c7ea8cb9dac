"""Send requests to an application under test as a given caller, without a provider of tokens."""

from starlette.requests import HTTPConnection

from kernel.application import Application
from kernel.auth.principal import Principal, unauthorized


class Callers:
    """Replaces the authentication of the application: requests have the callers that a test defines, or no caller."""

    def __init__(self, application: Application) -> None:
        self._known: dict[str, Principal] = {}
        application.kernel.authentication = self

    def headers(self, subject: str, *scopes: str) -> dict[str, str]:
        """Return the headers of this caller: `client.get(path, headers=callers.headers("alice", "events:read"))`."""
        value = f"Bearer test-{len(self._known)}"
        self._known[value] = Principal(subject, frozenset(scopes))
        return {"Authorization": value}

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return the caller of a request: see kernel.auth.principal."""
        sent = connection.headers.get("authorization")
        if sent is not None and sent not in self._known:
            raise unauthorized("invalid_token", "The test has no caller with this token.")
        return None if sent is None else self._known[sent]
