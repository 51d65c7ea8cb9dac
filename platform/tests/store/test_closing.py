"""The connections to the shared store end with the application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from kernel.application import create_app
from kernel.ext.store import SharedStore
from kernel.extension import Extension
from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.core.project import MANIFEST, imported_alone, write_project
from tests.core.waiting import until

FAILING = """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def fail(context):
    raise RuntimeError("cannot open")
    yield

module = Module(owner="team", lifespan=fail)
"""


class UsesTheStore(Extension):
    """An extension that connects before the modules start."""

    name = "uses_the_store"

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        await kernel.get(SharedStore).run(lambda redis: redis.ping())
        yield


@pytest.mark.integration
@pytest.mark.parametrize("manifest", [MANIFEST, FAILING], ids=["stops", "fails to start"])
async def test_no_connection_to_the_store_outlives_the_application(tmp_path: Path, manifest: str) -> None:
    held: set[asyncio.StreamWriter] = set()
    seen = 0
    answers = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"PING": b"+PONG\r\n"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        held.add(writer)
        while asked := await reader.read(1000):
            writer.write(next((said for word, said in answers.items() if word in asked), b"-ERR unknown command\r\n"))
        writer.close()
        await writer.wait_closed()
        held.remove(writer)

    async def is_closed() -> bool:
        return not held

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "redis://{}:{}".format(*server.sockets[0].getsockname())
    with imported_alone():
        write_project(tmp_path, {"shop/module.py": manifest})
        variables = {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}", "STORE_URL": url, "STORE_TIMEOUT_SECONDS": "5"}
        app = create_app(settings_for(tmp_path, variables))
        app.kernel.extensions = (*app.kernel.extensions, UsesTheStore())
        with pytest.raises(RuntimeError, match="cannot open") if manifest is FAILING else nullcontext():
            async with app.router.lifespan_context(app):
                assert held
    assert seen > 0
    await until(is_closed, 5)
    server.close()
