"""Decode images in child processes with limits on memory and time.

The decoders are C libraries, and the cost of a small file is known only afterwards: a WebP of 36 bytes took 750 MiB.
A child that reaches its limit does not affect the application.
"""

import asyncio
import json
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from fastapi import HTTPException

from kernel import Unavailable, Unprocessable
from modules.images.settings import ImagesSettings

_log = structlog.get_logger("modules.images")

_SCRIPT = Path(__file__).with_name("imaging.py")
_READY = b"ready"
_START_SECONDS = 20
# How long the end of a child may take that has closed its pipe.
_END_SECONDS = 5
_BROKEN = "cannot be decoded: it is damaged or cut short"


class Decoded(NamedTuple):
    """The result of decoding an upload. Sizes are in pixels, after the orientation is applied."""

    content_type: str
    width: int
    height: int
    thumbnail: bytes


class Decoder:
    """Decodes images. A child process is reused until it fails or the application stops."""

    def __init__(self, settings: ImagesSettings) -> None:
        self._settings = settings
        self._idle: list[Process] = []

    async def decode(self, data: bytes) -> Decoded:
        """Measure an image and make its thumbnail. Raises a Problem."""
        process = await self._child()
        try:
            async with asyncio.timeout(self._settings.max_decode_seconds):
                answer, thumbnail = await self._ask(process, data)
        except TimeoutError:
            await _kill(process)
            problem = f"The image takes more than {self._settings.max_decode_seconds:g} seconds to decode"
            raise Unprocessable("file", problem) from None
        except (OSError, EOFError, ValueError):  # the child has ended: a decoder crashed
            # kill() collects a child that asyncio has not seen end, and its exit code is lost.
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await process.wait()
            await _kill(process)
            _log.warning("image decoder crashed", exit_code=process.returncode, size_bytes=len(data))
            raise Unprocessable("file", f"The image {_BROKEN}") from None
        except BaseException:  # the request was cancelled
            await _kill(process)
            raise
        if answer.pop("is_last"):
            await _kill(process)
        else:
            self._idle.append(process)
        if "unsupported" in answer:
            raise HTTPException(415, "Send a PNG, JPEG, WebP or GIF.")
        if "broken" in answer:
            raise Unprocessable("file", f"The image {answer['broken']}")
        return Decoded(thumbnail=thumbnail, **answer)

    async def close(self) -> None:
        """End the child processes."""
        while self._idle:
            await _kill(self._idle.pop())

    async def _child(self) -> Process:
        """Return an idle child, or start one. Raises Unavailable."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        try:
            return await self._start()
        except (OSError, EOFError, TimeoutError) as error:
            _log.exception("image decoder not started", reason=repr(error))
            raise Unavailable("Images cannot be decoded at the moment. Try again shortly.") from error

    async def _start(self) -> Process:
        # -I: the child imports nothing from the working directory or from PYTHONPATH.
        command = (sys.executable, "-I", str(_SCRIPT), str(self._settings.max_decode_memory_bytes))
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
        try:
            assert process.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
            async with asyncio.timeout(_START_SECONDS):
                await process.stdout.readexactly(len(_READY))
        except BaseException:
            await _kill(process)
            raise
        return process

    async def _ask(self, process: Process, data: bytes) -> tuple[dict[str, Any], bytes]:
        assert process.stdin is not None  # noqa: S101  # for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101
        settings = self._settings
        process.stdin.write(struct.pack(">QQQ", len(data), settings.max_pixels, settings.thumbnail_pixels))
        process.stdin.write(data)
        await process.stdin.drain()
        size, thumbnail_size = struct.unpack(">QQ", await process.stdout.readexactly(16))
        answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
        return answer, await process.stdout.readexactly(thumbnail_size)


async def _kill(process: Process) -> None:
    """Kill a child and wait until it has ended, even if the current task is cancelled."""
    if process.returncode is None:
        process.kill()
    await asyncio.shield(process.wait())
