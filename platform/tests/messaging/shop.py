"""A project of two modules: shop tells of orders, mail writes a letter for each, and none of it knows of a test."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2

from kernel.application import Application
from kernel.ext.messaging.outbox import publish
from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.core.project import FROM_MODELS, imported_alone, running_project, write_project

_BASE = """
from datetime import datetime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from kernel.database import BigId, UtcDateTime, new_metadata
from kernel.ext.messaging import InboxTable, OutboxTable
from kernel.ext.messaging.tables import clock

class Base(DeclarativeBase):
    metadata = new_metadata()

class Outbox(OutboxTable, Base):
    __tablename__ = "outbox"
"""

FILES: Mapping[str, str] = {
    "shop/contract.py": """
from kernel.ext.messaging import Message

class OrderPlaced(Message, key="customer"):
    number: int
    customer: str | None = None
""",
    "shop/models.py": _BASE
    + """
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
""",
    "shop/router.py": """
from typing import Annotated
from fastapi import APIRouter
from pydantic import BaseModel
from kernel import Unprocessable, with_session
from kernel.ext.messaging import publish
from kernel.database import BaseRepository
from modules.shop.contract import OrderPlaced
from modules.shop.models import Order

router = APIRouter()

class OrderIn(BaseModel):
    number: int
    customer: str | None = None
    fails: bool = False

class Orders(BaseRepository[Order, int]):
    def __init__(self, session):
        super().__init__(Order, session)

@router.post("", status_code=201)
async def place(order: OrderIn, orders: Annotated[Orders, with_session(Orders)]) -> int:
    await orders.create(number=order.number)
    await publish(OrderPlaced(number=order.number, customer=order.customer))
    if order.fails:
        raise Unprocessable("number", "no")
    return order.number

@router.get("")
async def read(orders: Annotated[Orders, with_session(Orders)]) -> int:
    await publish(OrderPlaced(number=1))
    return 0
""",
    "mail/settings.py": """
from kernel import ModuleSettings
from kernel.settings.groups import Names

class MailSettings(ModuleSettings):
    refused: Names = ()
    fatal: Names = ()
    delay_seconds: float = 0
""",
    "mail/models.py": _BASE
    + """
class Inbox(InboxTable, Base):
    __tablename__ = "inbox"

class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
    customer: Mapped[str | None]
    written_at: Mapped[datetime] = mapped_column(UtcDateTime, default=clock())

class Attempt(Base):
    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
""",
    "mail/handlers.py": """
import asyncio
import os
import signal
from typing import Annotated
from fastapi import Depends
from kernel import module_settings, with_session
from kernel.ext.messaging import subscribe
from kernel.database import BaseRepository
from modules.mail.models import Letter
from modules.mail.settings import MailSettings
from modules.shop.contract import OrderPlaced

class Letters(BaseRepository[Letter, int]):
    def __init__(self, session):
        super().__init__(Letter, session)

@subscribe(OrderPlaced)
async def write_letter(
    message: OrderPlaced,
    letters: Annotated[Letters, with_session(Letters)],
    settings: Annotated[MailSettings, Depends(module_settings)],
) -> None:
    await letters.create(number=message.number, customer=message.customer)
    if str(message.number) in settings.fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.delay_seconds:
        await asyncio.sleep(settings.delay_seconds)
    if str(message.number) in settings.refused:
        raise ValueError("no such address")
""",
    "mail/module.py": """
from kernel import Module

module = Module(owner="team", depends_on={"shop"})
""",
}


def write_shop(root: Path, files: Mapping[str, str] | None = None) -> dict[str, str]:
    """The project at `root`, with these files instead of or beside its own; gives its modules' files."""
    everything = {**FILES, **(files or {})}
    write_project(root, everything)
    for module in ("shop", "mail"):
        folder = root / "migrations" / module
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "0001_first.py").write_text(FROM_MODELS.format(module=module))
    return everything


@asynccontextmanager
async def running_shop(
    root: Path, database_url: str, files: Mapping[str, str] | None = None, **variables: str
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Both modules in this process. Without a word, nothing waits long."""
    quick = {"MESSAGING_POLL_SECONDS": "0.2", "MESSAGING_BACKOFF_SECONDS": "0.05", "DATABASE_URL": database_url}
    async with running_project(root, write_shop(root, files), quick | variables) as running:
        yield running


@asynccontextmanager
async def shop_kernel(root: Path, database_url: str, **variables: str) -> AsyncIterator[Kernel]:
    """The kernel of the project with its tables, but no relay: for those who do its work by hand."""
    with imported_alone():
        write_shop(root)
        kernel = Kernel(settings_for(root, {"DATABASE_URL": database_url, **variables}))
        async with kernel.running(serving=False):
            yield kernel


async def place(kernel: Kernel, number: int, customer: str | None = None, pause: float = 0) -> None:
    """An order as the router would place it, in this process, whose transaction takes `pause` seconds."""
    # The project's own, which are there only now.
    order, placed = import_module("modules.shop.models").Order, import_module("modules.shop.contract").OrderPlaced
    async with kernel.contexts["shop"].database.transaction() as session:
        session.add(order(number=number))
        await session.flush()
        await publish(placed(number=number, customer=customer))
        if pause:
            await asyncio.sleep(pause)


async def rows(app: Application | Kernel, module: str, table: str) -> list[dict[str, Any]]:
    """All rows of a module's table, by their first column."""
    kernel = app.kernel if isinstance(app, Application) else app
    found = next(one for one in kernel.modules if one.name == module)
    assert found.metadata is not None
    wanted = found.metadata.tables[table]
    async with kernel.contexts[module].database.read() as session:
        selected = await session.execute(wanted.select().order_by(next(iter(wanted.c))))
        return [dict(row) for row in selected.mappings()]
