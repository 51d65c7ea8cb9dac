"""Several workers on one socket, and the supervisor that watches them.

Uvicorn's own supervisor reacts to signals half a second late, and to none during a rolling restart; it ends with exit
code 0 when the start failed, restarts failing workers without a pause, and leaves its workers behind when it is killed.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

from uvicorn.config import STARTUP_FAILURE

from kernel.ext.server.extension import WORKERS_FOLDER
from kernel.ext.server.process import RETIRE, DrainingServer
from kernel.ext.server.settings import ServerProcessSettings
from kernel.serving import application

_log = logging.getLogger("kernel.ext.server")
_spawn = multiprocessing.get_context("spawn")

# Before the replacement of a worker that served only for a short time, or could not be started.
_PAUSE_SECONDS = 1
_SHORT_SECONDS = 5
# Added to the time that the settings allow for a stop.
_MARGIN_SECONDS = 5


class Worker:
    """One process as the supervisor sees it. Its event loop sends a heartbeat about once a second."""

    def __init__(self, sock: socket.socket, *, is_first: bool) -> None:
        """Start the process. Raises OSError if the system has no more processes or files."""
        self._beats, sending = _spawn.Pipe(duplex=False)
        os.set_blocking(self._beats.fileno(), False)
        self.process = _spawn.Process(target=_work, args=(sock, sending, is_first))
        try:
            self.process.start()
        except OSError:
            self._beats.close()
            raise
        finally:
            sending.close()
        self.serves_since = math.inf
        self.last_beat_at = time.monotonic()
        self.kill_at: float | None = None

    @property
    def serves(self) -> bool:
        return self.serves_since < math.inf

    def read_heartbeats(self) -> None:
        """Read its heartbeats."""
        with contextlib.suppress(BlockingIOError):
            if os.read(self._beats.fileno(), 4096):
                self.last_beat_at = time.monotonic()
                self.serves_since = min(self.serves_since, self.last_beat_at)

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def handles(self) -> list[int | Connection]:
        """Return what to wait for: its end, and its next heartbeat."""
        return [self.process.sentinel, self._beats] if self.process.is_alive() else [self.process.sentinel]

    def close(self) -> None:
        """Release the process and the pipe. Call it after the process has ended."""
        self.process.join()
        self._beats.close()


class Supervisor:
    """Keeps as many workers running as the settings say.

    SIGTERM and SIGINT stop them like a single process; the second shortens the stop. SIGHUP replaces one worker after
    the other, each when its successor serves. A worker that dies is replaced. If the first worker does not start, the
    supervisor ends.
    """

    def __init__(self, settings: ServerProcessSettings, sock: socket.socket) -> None:
        self._settings = settings
        self._sock = sock
        self._folder = _folder()
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []
        # The workers that a rolling restart has to replace, and the successor of the first of them.
        self._old: list[Worker] = []
        self._successor: Worker | None = None
        self._start_after = 0.0
        self._has_served = self._is_stopping = False
        self._code = 0

    def run(self) -> int:
        """Watch the workers until all have ended, and return the exit code."""
        woken, waker = socket.socketpair()
        woken.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        while True:
            self._fill()
            if self._is_stopping and not self._all():
                return self._code
            wait([woken, *(one for worker in self._all() for one in worker.handles())], timeout=0.5)
            with contextlib.suppress(BlockingIOError):
                for byte in woken.recv(64):
                    self._handle_signal(signal.Signals(byte))
            for worker in self._all():
                self._check(worker)
            self._replace()

    def _all(self) -> list[Worker]:
        return [*self._workers, *self._leaving, *([self._successor] if self._successor else [])]

    def _handle_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            if not self._is_stopping:
                _log.info("SIGHUP: replacing the workers one after the other")
                self._old = list(self._workers)
            return
        _log.info("%s: stopping%s", number.name, " at once" if self._is_stopping else "")
        if self._is_stopping:
            for worker in self._all():
                worker.send(signal.SIGTERM)
        self._stop()

    def _stop(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        self._old = []
        for worker in (*self._workers, *([self._successor] if self._successor else [])):
            self._retire(worker, signal.SIGTERM)
        self._workers, self._successor = [], None

    def _retire(self, worker: Worker, number: int) -> None:
        settings = self._settings
        stop = settings.drain_seconds + settings.graceful_shutdown_timeout_seconds + settings.close_timeout_seconds
        worker.kill_at = time.monotonic() + stop + _MARGIN_SECONDS
        worker.send(number)
        self._leaving.append(worker)

    def _fill(self) -> None:
        """Start missing workers; the first one alone, because an error in the start would be logged by each."""
        wanted = self._settings.workers if self._has_served else 1
        while not self._is_stopping and len(self._workers) < wanted and time.monotonic() >= self._start_after:
            worker = self._start(is_first=not self._has_served)
            if worker is not None:
                self._workers.append(worker)
            elif not self._has_served:
                self._code = STARTUP_FAILURE
                self._stop()

    def _start(self, *, is_first: bool = False) -> Worker | None:
        try:
            return Worker(self._sock, is_first=is_first)
        except OSError as error:
            _log.error("cannot start a worker: %s", error)
            self._start_after = time.monotonic() + _PAUSE_SECONDS
            return None

    def _check(self, worker: Worker) -> None:
        worker.read_heartbeats()
        self._has_served = self._has_served or worker.serves
        if fault := self._fault(worker):
            _log.error("worker %s %s: killed", worker.process.pid, fault)
            worker.process.kill()
            worker.kill_at = math.inf
        if not worker.process.is_alive():
            self._remove(worker)

    def _fault(self, worker: Worker) -> str | None:
        """Return why the supervisor has to kill a worker, or None."""
        now = time.monotonic()
        silent_for = now - worker.last_beat_at
        if worker.kill_at is not None:
            return "did not end in time" if now > worker.kill_at else None
        if worker.serves:
            is_late = silent_for > self._settings.worker_timeout_seconds
            return "does not respond (SERVER_WORKER_TIMEOUT_SECONDS)" if is_late else None
        is_late = silent_for > self._settings.worker_start_timeout_seconds
        return "did not start in time (SERVER_WORKER_START_TIMEOUT_SECONDS)" if is_late else None

    def _remove(self, worker: Worker) -> None:
        worker.close()
        if self._folder is not None:
            (self._folder / f"{worker.process.pid}.sock").unlink(missing_ok=True)
        code = worker.process.exitcode
        if worker in self._leaving:
            self._leaving.remove(worker)
        elif worker is self._successor:
            _log.error(
                "the new worker did not start (exit code %s): the other workers stay",
                code,
            )
            self._successor, self._old = None, []
        else:
            self._workers.remove(worker)
            if not self._has_served:
                self._code = code if code and code > 0 else STARTUP_FAILURE
                self._stop()
                return
            _log.error("worker %s ended (exit code %s): a new worker replaces it", worker.process.pid, code)
            if time.monotonic() - worker.serves_since < _SHORT_SECONDS:
                self._start_after = time.monotonic() + _PAUSE_SECONDS

    def _replace(self) -> None:
        """Take one step of a rolling restart."""
        self._old = [one for one in self._old if one in self._workers]
        if not self._old:
            return
        if self._successor is None:
            if time.monotonic() >= self._start_after:
                self._successor = self._start()
        elif self._successor.serves:
            old = self._old.pop(0)
            self._workers[self._workers.index(old)] = self._successor
            self._successor = None
            assert RETIRE is not None  # noqa: S101  # for the type checker: a system with SIGHUP has SIGUSR1
            self._retire(old, RETIRE)


def _folder() -> Path | None:
    """Return the folder for the sockets of the workers, or None if the paths of sockets there would be too long."""
    folder = Path(os.environ[WORKERS_FOLDER])
    longest = folder / "4194304.sock"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(longest))
        longest.unlink()
    except OSError as error:
        _log.error(
            "/metrics reports one worker at a time: no socket in %s (%s). Set TMPDIR to a shorter path.",
            folder,
            error,
        )
        del os.environ[WORKERS_FOLDER]
        return None
    return folder


def _work(sock: socket.socket, beats: Connection, is_first: bool) -> None:
    """Run a worker."""
    for number in (
        signal.SIGINT,
        signal.SIGHUP,
    ):  # A terminal sends these signals to all its processes; the supervisor handles them.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Until the server sets its own handlers.

    def beat() -> None:
        try:
            os.write(beats.fileno(), b".")
        except BlockingIOError:
            pass  # The supervisor is busy.
        except BrokenPipeError:  # The supervisor was killed: stop, and remove the folder in its place.
            server.abandon()
            if folder := os.environ.get(WORKERS_FOLDER):
                shutil.rmtree(folder, ignore_errors=True)

    os.set_blocking(beats.fileno(), False)
    try:
        app = application()
    except Exception as error:  # noqa: BLE001  # the supervisor could read the project; any error is reported
        sys.stderr.write(f"Cannot start: {error}\n")
        sys.exit(STARTUP_FAILURE)
    server = DrainingServer(app, beat, counts_connections=is_first)
    server.run([sock])
