"""How a process serves, whom it waits for, and how it stops."""

from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup
from kernel.settings.sources import Environment


class ServerSettings(SettingsGroup):
    """The listening socket and what it accepts."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1)
    reload: bool = Field(default_factory=lambda data: data.get("environment") is Environment.LOCAL)
    # Names by which callers may address us (`*.example.com` covers subdomains); loopback is always allowed.
    allowed_hosts: Names = ("*",)
    # Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto count.
    forwarded_allow_ips: Names = ("127.0.0.1",)
    # The path under which a proxy serves the application.
    root_path: str = ""
    # Connections that may wait to be accepted; past that, callers wait a second for their next try. Linux allows 4096.
    backlog: int = Field(4096, ge=1)
    # Above what most load balancers keep idle connections open (60 s), so that they, not we, close them.
    keep_alive_timeout_seconds: int = Field(75, ge=1)
    # Requests in work at a time, in each process, the health probes apart; one more is answered 503 at once. Idle
    # connections do not count.
    max_concurrent_requests: int = Field(1000, ge=1)
    # Open WebSockets in each process; one more is answered 503. They do not count as requests in work.
    max_websockets: int = Field(1000, ge=1)
    # How many percent of them a single caller may hold with requests that have a body, and of max_websockets, at least
    # one; one more is answered 429. A caller is counted as for rate limits.
    caller_share_percent: int = Field(25, ge=1, le=100)
    # The request line and all headers of a request together.
    max_header_bytes: int = Field(64 << 10, ge=4096)
    # How long a caller may take to send the head of a request, and may pause in a body or in reading its answer. Each
    # time it moves so many bytes it has a second more: a bad mobile network manages ten times that.
    slow_timeout_seconds: float = Field(8, gt=0)
    minimum_rate_bytes: int = Field(4096, ge=1)
    # SIGTERM: for so long we say that we are not ready and serve on. A load balancer needs some seconds to see that and
    # would send to a closed port meanwhile. The next two are for what is in work then, and for closing pools; together
    # they stay below the 30 s after which Kubernetes kills.
    drain_seconds: float = Field(
        default_factory=lambda data: 0 if data.get("environment") is Environment.LOCAL else 5, ge=0
    )
    graceful_shutdown_timeout_seconds: float = Field(15, ge=0)
    close_timeout_seconds: float = Field(8, gt=0)
    # Several workers: one whose event loop has not moved for so long is killed and replaced.
    worker_timeout_seconds: float = Field(30, gt=1)
    # The same for one that does not serve yet: longer than any start, in LOCAL with its migrations.
    worker_start_timeout_seconds: float = Field(60, gt=1)
    # Below this, an answer fits in a packet or two and compressing it costs more than it saves.
    gzip_minimum_bytes: int = Field(1000, ge=0)

    @field_validator("reload")
    @classmethod
    def _reload_is_local(cls, value: bool, info: Any) -> bool:
        if value and info.data.get("environment") is not Environment.LOCAL:
            raise ValueError("auto-reload is for local only")
        return value
