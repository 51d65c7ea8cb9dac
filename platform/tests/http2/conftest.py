"""The server over TLS of the shared tests of the HTTP client, here with HTTP/2."""

from collections.abc import Callable

import pytest
import trustme

from tests.core.https_server import Handler, HttpServer, tls_context


@pytest.fixture
def tls_server(authority: trustme.CA) -> Callable[[Handler], HttpServer]:
    """Return a server that offers HTTP/2."""
    return lambda handler: HttpServer(handler, tls_context(authority, "h2"))
