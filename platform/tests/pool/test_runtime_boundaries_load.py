"""Many simultaneous requests that each need two modules, on a pool with fewer connections than requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.engine import URL

from tests.core.project import MODELS, running_project, write_migration

POOL_OF_5 = {
    "DATABASE_POOL_SIZE": "5",
    "DATABASE_MAX_OVERFLOW": "0",
    "DATABASE_ROLE_PER_MODULE": "true",
    # 200 callers in one process wait for the processor. None may wait for a connection that is never released.
    "DATABASE_POOL_TIMEOUT_SECONDS": "10",
    "DATABASE_POOL_SHARE_TIMEOUT_SECONDS": "10",
}
CONTRACT = """
from kernel import Contract, safe

class Parts(Contract):
    @safe
    async def known(self, part_id: int) -> bool: ...
"""
SERVICE = """
from sqlalchemy.ext.asyncio import AsyncSession
from kernel.database import BaseRepository
from modules.parts.contract import Parts
from modules.parts.models import Thing

class Answers(Parts):
    def __init__(self, session: AsyncSession) -> None:
        self._parts = BaseRepository[Thing, int](Thing, session)

    async def known(self, part_id: int) -> bool:
        return await self._parts.exists(part_id)
"""
# Each reads in its own transaction, calls the other module, then writes: by entities or on the driver.
ROUTER = """
from typing import Annotated
from fastapi import APIRouter
from pydantic import BaseModel
from kernel import Session, use
from kernel.database import BaseRepository
from modules.orders.models import Thing
from modules.parts.contract import Parts

router = APIRouter()
PartsClient = Annotated[Parts, use(Parts)]

class ThingOut(BaseModel):
    id: int
    name: str

@router.post("/{name}", status_code=201)
async def order(name: str, session: Session, parts: PartsClient, orm: bool = False, too_late: bool = False) -> ThingOut:
    orders = BaseRepository[Thing, int](Thing, session)
    await (orders.get_by_id(1) if orm else orders.get_by_id(1, into=ThingOut))
    if not too_late:
        await parts.known(1)
    made = await orders.create(into=ThingOut, name=name)
    if too_late:
        await parts.known(1)
    return made
"""
FILES = {
    "parts/models.py": MODELS,
    "parts/contract.py": CONTRACT,
    "parts/service.py": SERVICE,
    "parts/module.py": "from kernel import Module\nfrom modules.parts.contract import Parts\n"
    'from modules.parts.service import Answers\n\nmodule = Module(owner="team", provides={Parts: Answers})\n',
    "orders/models.py": MODELS,
    "orders/router.py": ROUTER,
    "orders/module.py": 'from kernel import Module\n\nmodule = Module(owner="team", depends_on={"parts"})\n',
}


@asynccontextmanager
async def orders(tmp_path: Path, url: URL) -> AsyncIterator[tuple[Any, httpx2.AsyncClient]]:
    for name in ("parts", "orders"):
        write_migration(tmp_path, name)
    async with running_project(tmp_path, FILES, POOL_OF_5 | {"DATABASE_URL": str(url)}) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("orm", ["true", "false"])
async def test_200_requests_that_have_read_before_the_call_finish_on_a_pool_of_5(
    tmp_path: Path, new_database: Callable[[str], URL], orm: str
) -> None:
    async with orders(tmp_path, new_database("orders")) as (_, client):
        calls = (client.post(f"/api/v1/orders/n{number}", params={"orm": orm}) for number in range(200))
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [201] * 200


async def test_the_error_names_the_line_in_the_module(tmp_path: Path, new_database: Callable[[str], URL]) -> None:
    async with orders(tmp_path, new_database("orders")) as (_, client):
        answer = await client.post("/api/v1/orders/late", params={"too_late": "true"})
    assert answer.status_code == 500
    line = ROUTER.splitlines().index("    if too_late:") + 2
    [said] = [one for one in answer.json()["traceback"] if "CallInTransaction:" in one]
    assert f"Parts.known is called at modules/orders/router.py:{line}, inside a transaction that has written" in said
    assert "INSERT INTO orders.things" in said
