"""A served project for fault scenarios: health as in the repository, and `work`, whose routes take a given time."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.core.project import FROM_MODELS, write_project
from tests.faults.harness import KERNEL, end, free_port

_REPOSITORY = Path(__file__).parents[2]

_FILES = {
    "work/module.py": """
import asyncio
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def _journal(context):
    settings = context.settings
    with open(settings.journal, "a") as journal:
        print("opened", file=journal, flush=True)
        try:
            yield
        finally:
            print("closed", file=journal, flush=True)
            await asyncio.sleep(settings.closes_in_seconds)

module = Module(owner="team", lifespan=_journal)
""",
    "work/settings.py": """
from kernel import ModuleSettings

class WorkSettings(ModuleSettings):
    journal: str = "journal.txt"
    closes_in_seconds: float = 0
""",
    "work/models.py": """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from kernel.database import BigId, new_metadata

class Base(DeclarativeBase):
    metadata = new_metadata()

class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
""",
    "work/router.py": """
import asyncio
from typing import Annotated
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from kernel import Session, with_session
from kernel.database import BaseRepository
from modules.work.models import Item

router = APIRouter()

class Items(BaseRepository[Item, int]):
    def __init__(self, session):
        super().__init__(Item, session)

AnyItems = Annotated[Items, with_session(Items)]

@router.get("")
async def numbers(session: Session) -> list[int]:
    return list((await session.execute(Item.__table__.select().with_only_columns(Item.number).limit(20))).scalars())

@router.get("/all")
async def everything(session: Session) -> list[int]:
    return list((await session.execute(Item.__table__.select().with_only_columns(Item.number))).scalars())

@router.post("", status_code=201)
async def add(number: int, items: AnyItems) -> int:
    await items.create(number=number)
    return number

@router.get("/held")
async def hold_connection(session: Session, seconds: float = 1) -> float:
    await session.execute(text(f"SELECT pg_sleep({seconds:f})"))
    return seconds

@router.get("/waited")
async def wait(seconds: float = 1) -> float:
    print("the request waits", flush=True)
    await asyncio.sleep(seconds)
    return seconds

@router.get("/large")
async def large() -> Response:
    async def parts():
        for _ in range(500):
            yield b"x" * 60_000
    return StreamingResponse(parts(), media_type="application/octet-stream")

@router.post("/bytes")
async def take(request: Request) -> int:
    return len(await request.body())
""",
    "failing/module.py": """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def _fail(context):
    if context.settings.fails:
        raise RuntimeError("the bucket is gone")
    yield

module = Module(owner="team", lifespan=_fail, depends_on={"work"})
""",
    "failing/settings.py": """
from kernel import ModuleSettings

class FailingSettings(ModuleSettings):
    fails: bool = False
""",
    "work/contract.py": "",
}


@dataclass
class Served:
    """The project in a folder, on one database."""

    root: Path
    variables: dict[str, str]
    port: int = field(default_factory=free_port)

    @property
    def kind(self) -> str:
        """Return the name of the database in the table."""
        return "SQLite" if self.variables["DATABASE_URL"].startswith("sqlite") else "PostgreSQL"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def journal(self) -> list[str]:
        """Return what the module `work` opened and closed."""
        path = self.root / "journal.txt"
        return path.read_text().split() if path.exists() else []

    @property
    def said(self) -> str:
        """Return the output of the processes."""
        return (self.root / "processes.log").read_text()

    @contextmanager
    def process(self, *words: str, port: int | None = None, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `kernel serve WORDS`, and kill it at the end of the block; its workers end by themselves."""
        with (self.root / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [KERNEL, "serve", "--port", str(port or self.port), *words],
                cwd=self.root,
                env={**os.environ, **self.variables, **variables},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        try:
            yield process
        finally:
            end(process)

    def connect(self, source: str = "127.0.0.1", **options: int) -> socket.socket:
        """Return a connected socket; `options` are of the socket level, by their names (SO_RCVBUF=4096)."""
        sock = socket.socket()
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", self.port))
        return sock


def project(folder: Path, database_url: str, files: Mapping[str, str] | None = None, **variables: str) -> Served:
    """Write the project with these additional files, and run nothing."""
    root = folder / "served"
    write_project(root, {**_FILES, **(files or {})})
    for kind in ("modules", "migrations"):
        shutil.copytree(_REPOSITORY / kind / "health", root / kind / "health")
    (root / "migrations" / "work").mkdir(parents=True)
    (root / "migrations" / "work" / "0001_first.py").write_text(FROM_MODELS)
    common = {
        "ENVIRONMENT": "local",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "json",
        "SERVER_RELOAD": "false",
        "DATABASE_URL": database_url,
    }
    return Served(root, common | variables)


def resident_mib(pid: int) -> float:
    """Return the memory of a process (Linux)."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def children(pid: int) -> list[int]:
    """Return the worker processes of a supervisor (Linux)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found if b"spawn_main" in _command(one)]


def _command(pid: str) -> bytes:
    """Return the command line of a process; "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def open_files(pid: int) -> int:
    """Return how many files and connections a process has open (Linux)."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
