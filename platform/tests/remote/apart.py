"""The shop and the mail in two applications, separated by settings alone, connected by a socket that can fail."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx2

from kernel.application import Application, create_app
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.health import Degraded
from kernel.testing import project_for
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, HttpServer, Reply
from tests.core.project import imported_alone
from tests.messaging.shop import write_shop
from tests.remote.two_sides import Between, Forward, plainly

SECRET = "0123456789abcdef0123456789abcdef"


@dataclass
class Apart:
    """Both applications, started; a client of the shop; and the socket in front of the mail."""

    shop: Application
    mail: Application
    client: httpx2.AsyncClient
    wire: HttpServer

    async def degraded(self) -> tuple[str, str]:
        """Return what both sides report about undelivered messages after a check: the shop, the mail."""
        await self.shop.kernel.get(DeliveryWatch).look()  # The shop reports what it finds to the mail.
        await self.mail.kernel.get(DeliveryWatch).look()
        return await _degraded(self.shop), await _degraded(self.mail)


async def _degraded(app: Application) -> str:
    try:
        await app.kernel.health_checks()["messages"]()
    except Degraded as error:
        return str(error)
    return ""


@asynccontextmanager
async def apart(
    root: Path,
    databases: tuple[str, str],
    files: Mapping[str, str] | None = None,
    between: Between = plainly,
    *,
    shop: Mapping[str, str] = MappingProxyType({}),
    mail: Mapping[str, str] = MappingProxyType({}),
    listening: bool = True,
) -> AsyncIterator[Apart]:
    """Run both. `shop` and `mail` are further settings of each; an empty one is omitted."""
    write_shop(root, files)
    common = {
        "INTERNAL_SECRET": SECRET,
        "INTERNAL_COMPARE_SECONDS": "60",
        "MESSAGING_CHECK_SECONDS": "60",
        "MESSAGING_POLL_SECONDS": "0.05",
        "MESSAGING_BACKOFF_SECONDS": "0.05",
        "MESSAGING_MAX_BACKOFF_SECONDS": "0.2",
    }
    clients: dict[str, httpx2.AsyncClient] = {}

    def forward_to(name: str) -> Forward:
        async def forward(call: Call) -> Reply | Drop:
            headers = {key: value for key, value in call.headers.items() if key != "content-length"}
            answer = await clients[name].request(call.method, call.path, headers=headers, content=call.body)
            return Reply(answer.status_code, {"content-type": answer.headers.get("content-type", "")}, answer.content)

        return forward

    async with AsyncExitStack() as stack:
        stack.enter_context(imported_alone())
        to_mail = await stack.enter_async_context(
            HttpServer(lambda call: between(call, forward_to("mail")), listening=listening)
        )
        to_shop = await stack.enter_async_context(HttpServer(forward_to("shop")))
        own = {
            "shop": {"MAIL_URL": to_mail.url, **shop},
            "mail": {"SHOP_URL": to_shop.url, **mail},
        }
        apps = {}
        for (name, settings), database in zip(own.items(), databases, strict=True):
            variables = {**common, "ENABLED_MODULES": name, "DATABASE_URL": database, **settings}
            given = {key: value for key, value in variables.items() if value}
            apps[name] = create_app(*project_for(root, given))
            clients[name] = await stack.enter_async_context(talking_to(apps[name]))
        for app in apps.values():
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield Apart(apps["shop"], apps["mail"], clients["shop"], to_mail)
