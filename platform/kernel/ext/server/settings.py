"""The settings of workers, limits and the stop."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup
from kernel.settings.sources import Environment


class ServerProcessSettings(SettingsGroup):
    """Workers, limits for each process, and the stop. The core reads the settings of the socket (ServerSettings)."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    workers: int = Field(1, ge=1)
    # Connections that may wait to be accepted. Linux allows 4096; beyond the limit a client retries after a second.
    backlog: int = Field(4096, ge=1)
    # Longer than most load balancers keep idle connections open (60 s), so that they close first.
    keep_alive_timeout_seconds: int = Field(75, ge=1)
    # Requests that each process handles at a time; one more is answered 503 at once. Health probes and idle
    # connections do not count.
    max_concurrent_requests: int = Field(1000, ge=1)
    # Open WebSockets in each process; one more is answered 503. They do not count as requests.
    max_websockets: int = Field(1000, ge=1)
    # The request line and all headers of a request together.
    max_header_bytes: int = Field(64 << 10, ge=4096)
    # How long a client may take to send the head of a request, and may pause while it sends a body or reads the
    # response. Each `minimum_rate_bytes` that it moves give it one more second; a bad mobile network is ten times
    # faster than that.
    slow_timeout_seconds: float = Field(8, gt=0)
    minimum_rate_bytes: int = Field(4096, ge=1)
    # The stop, in three phases that together stay below the 30 s after which Kubernetes kills. First the process
    # reports that it is not ready and still accepts connections: a load balancer needs some seconds to notice.
    drain_seconds: float = Field(
        default_factory=lambda data: 0 if data.get("environment") is Environment.LOCAL else 5, ge=0
    )
    # Then it waits for the requests that it still handles, and at last it closes the pools.
    graceful_shutdown_timeout_seconds: float = Field(15, ge=0)
    close_timeout_seconds: float = Field(8, gt=0)
    # With several workers: a worker whose event loop has not moved for so long is killed and replaced.
    worker_timeout_seconds: float = Field(30, gt=1)
    # The same for a worker that is still starting: longer than any start, which in LOCAL includes the migrations.
    worker_start_timeout_seconds: float = Field(60, gt=1)
