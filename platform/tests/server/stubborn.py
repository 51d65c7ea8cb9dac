"""A served project with a module that does not start, does not end, or does not release its resources."""

from pathlib import Path

from tests.faults.served import Served, project

_FILES = {
    "bad/module.py": """
import asyncio, threading, time
from contextlib import asynccontextmanager
from pathlib import Path
from kernel import Module

async def ignore_cancellation(seconds):
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            pass

_WAYS = {
    "": lambda: asyncio.sleep(0),
    "thread": lambda: asyncio.to_thread(time.sleep, 60),
    "stubborn": lambda: ignore_cancellation(60),
    "block": lambda: asyncio.sleep(time.sleep(60)),
}

@asynccontextmanager
async def _lifespan(context):
    settings = context.settings
    if settings.start == "fail":
        threading.Thread(target=time.sleep, args=(60,)).start()
        raise RuntimeError("the bucket is gone")
    while Path("hang").exists():
        await asyncio.sleep(0.05)
    print("the module bad starts", flush=True)
    await _WAYS[settings.start]()
    try:
        yield
    finally:
        await _WAYS[settings.end]()

module = Module(owner="team", lifespan=_lifespan)
""",
    "bad/settings.py": """
from kernel import ModuleSettings

class BadSettings(ModuleSettings):
    start: str = ""
    end: str = ""
""",
    "bad/router.py": """
import asyncio, os, time
from fastapi import APIRouter
from modules.bad.module import ignore_cancellation

router = APIRouter()

def say_begun() -> None:
    print("the request has begun", flush=True)

@router.get("/sync")
def sync() -> None:
    say_begun()
    time.sleep(60)

@router.get("/thread")
async def thread() -> None:
    say_begun()
    await asyncio.to_thread(time.sleep, 60)

@router.get("/stubborn")
async def stubborn() -> None:
    say_begun()
    await ignore_cancellation(60)

@router.get("/waited")
async def waited(seconds: float) -> None:
    say_begun()
    await asyncio.sleep(seconds)

@router.get("/pid")
async def pid() -> int:
    time.sleep(0.3)  # the next request gets to another worker, if there is one
    return os.getpid()
""",
}


def stubborn_project(folder: Path, **variables: str) -> Served:
    """Write the project, with short time limits for its stop."""
    short = {
        "SERVER_DRAIN_SECONDS": "0",
        "SERVER_GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS": "0.3",
        "SERVER_CLOSE_TIMEOUT_SECONDS": "0.3",
    }
    return project(folder, f"sqlite:///{folder / 'data'}", _FILES, **short | variables)
