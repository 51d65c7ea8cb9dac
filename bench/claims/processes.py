"""Servers on loopback to measure: their environment, and the memory that they use."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNEL = Path(sys.executable).parent / "kernel"

# The variables that a process needs to run. All others may be a developer's settings.
_KEPT = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH"})
_LONGEST_START_SECONDS = 60
_LONGEST_STOP_SECONDS = 30
_POLL_SECONDS = 0.005
_SHOWN_OF_LOG = 2000


@dataclass(frozen=True)
class Server:
    """A server that has given its first answer."""

    pid: int
    port: int
    # Seconds from the start of the process to its first answer.
    start_seconds: float


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the variables of a process that sees these settings and no others."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    return kept | {"SECRETS_DIR": str(secrets)} | variables


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(project: Path, path: str, variables: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Run `kernel serve` in a project, with its output in `log`, from its first answer with status 200 on `path` on."""
    port = free_port()
    with answering([str(KERNEL), "serve", "--port", str(port)], project, port, path, variables, log) as server:
        yield server


@contextmanager
def answering(
    command: Sequence[str], folder: Path, port: int, path: str, variables: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """Run any server. Raises RuntimeError, with the end of its log, if it does not start."""
    with log.open("wb") as output:
        started_at = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            while not _answers(port, path):
                if process.poll() is not None or time.perf_counter() - started_at > _LONGEST_START_SECONDS:
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text()[-_SHOWN_OF_LOG:]}")
                time.sleep(_POLL_SECONDS)
            yield Server(process.pid, port, time.perf_counter() - started_at)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that this program started."""
    process.terminate()
    try:
        process.wait(_LONGEST_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(port: int, path: str) -> bool:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def rss_mib(pid: int) -> float:
    """Return the memory that a process uses now, in MiB (Linux)."""
    return _status_mib(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """Return the most memory that a process has used so far, in MiB (Linux)."""
    return _status_mib(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its threads so far, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)


def _status_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")


def allow_open_files(wanted: int) -> int:
    """Raise the limit of open files for this process and its children, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    if hard < wanted:  # Only root may raise the hard limit.
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    return wanted
