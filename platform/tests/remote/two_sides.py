"""A shop that calls prices in another process: two real applications, connected by a socket that can fail."""

import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from kernel.application import Application, create_app
from kernel.ext.remote.extension import Remote
from kernel.testing import project_for
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, HttpServer, Reply
from tests.core.project import imported_alone, modules_of, write_project

SECRET = "0123456789abcdef0123456789abcdef"

FILES = modules_of(Path(__file__).with_name("project"))


@dataclass
class Sides:
    """Both applications, started. `wire.calls` records requests over the socket, `done` the work of the provider."""

    caller: Application
    callee: Application
    # A client of the caller, as its users have one.
    shop: httpx2.AsyncClient
    wire: HttpServer
    # The contract as the caller has it, its file, and the file of the implementation.
    prices: Any
    contract: Any
    service: Any

    @property
    def done(self) -> list[tuple[Any, ...]]:
        done: list[tuple[Any, ...]] = self.service.DONE
        return done


Forward = Callable[[Call], Awaitable[Reply | Drop]]
Between = Callable[[Call, Forward], Awaitable[Reply | Drop]]


async def plainly(call: Call, forward: Forward) -> Reply | Drop:
    return await forward(call)


def describing_otherwise(change: Callable[[dict[str, Any]], object]) -> Between:
    """Change on the way how the other process describes the contracts and messages of `prices`."""

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        if call.path != "/internal/contracts/prices":
            return answer
        assert isinstance(answer, Reply)
        descriptions = json.loads(answer.body)
        change(descriptions)
        return Reply(200, {}, json.dumps(descriptions).encode())

    return between


@asynccontextmanager
async def two_sides(
    root: Path,
    between: Between = plainly,
    *,
    callee: Mapping[str, str] = MappingProxyType({}),
    caller: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
    waits: bool = True,
) -> AsyncIterator[Sides]:
    """Run both sides in DEV with one secret.

    `callee` and `caller` are further settings of each, `files` further files. With `waits`, return after the caller has
    compared the contracts.
    """
    write_project(root, {**FILES, **files})
    common = {
        "ENVIRONMENT": "dev",
        "AUTH_ENABLED": "false",
        "INTERNAL_SECRET": SECRET,
        "HTTP_CLIENT_BACKOFF_SECONDS": "0.001",
    }
    common["DATABASE_URL"] = f"sqlite:///{root / 'data'}"

    async def forward(call: Call) -> Reply | Drop:
        headers = {name: value for name, value in call.headers.items() if name != "content-length"}
        answer = await there.request(call.method, call.path, headers=headers, content=call.body)
        return Reply(answer.status_code, {"content-type": answer.headers["content-type"]}, answer.content)

    async with AsyncExitStack() as stack:
        stack.enter_context(imported_alone())
        other = create_app(*project_for(root, {**common, "ENABLED_MODULES": "prices", **callee}))
        await stack.enter_async_context(other.router.lifespan_context(other))
        there = await stack.enter_async_context(talking_to(other))
        wire = await stack.enter_async_context(HttpServer(lambda call: between(call, forward)))
        settings = {**common, "ENABLED_MODULES": "shop", "PRICES_URL": wire.url, **caller}
        app = create_app(*project_for(root, settings))
        await stack.enter_async_context(app.router.lifespan_context(app))
        shop = await stack.enter_async_context(talking_to(app))
        for module in app.kernel.get(Remote).channel.compared.values() if waits else ():
            await module._is_compared.wait()
        wire.calls.clear()
        contract, service = (importlib.import_module(f"modules.prices.{file}") for file in ("contract", "service"))
        yield Sides(app, other, shop, wire, app.kernel.contracts[contract.Prices], contract, service)
