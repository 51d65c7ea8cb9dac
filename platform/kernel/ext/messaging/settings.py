"""The settings of messages between modules."""

from importlib.util import find_spec

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup
from kernel.settings.sources import Environment

# The package that speaks to a broker, and its extra, by the scheme of the URL.
_CLIENTS = {
    **dict.fromkeys(("nats", "tls"), ("nats", "messaging-nats")),
    **dict.fromkeys(("amqp", "amqps"), ("aio_pika", "messaging-rabbitmq")),
    **dict.fromkeys(("redis", "rediss"), ("redis", "messaging-redis")),
}


class MessagingSettings(SettingsGroup):
    """Delivery of messages between modules. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="MESSAGING_")

    # Deliver in the processes that serve. Off where `kernel relay` runs beside them.
    relay: bool = True
    # The port on which `kernel relay` answers probes and the routes of other extensions (/metrics). Unset: none.
    relay_port: int | None = Field(None, ge=1, le=65535)
    # Where messages for modules in other places go: nats://, amqp:// or redis://.
    broker_url: SecretStr | None = None
    # Prefix of the names of streams, exchanges and queues; a different one for each application on a broker.
    broker_prefix: str = Field("messages", pattern=r"^[a-z0-9_]+$")
    # Modules outside of this code base that subscribe to messages of this process. Each needs its <NAME>_URL.
    subscribers: Names = ()
    # Names of messages that have no subscriber on purpose (images.image_deleted). Any other message without one stops
    # the start outside LOCAL, because it would be lost.
    without_subscribers: Names = ()
    # The largest message, as JSON with its envelope. The broker and the other processes must accept as much
    # (INTERNAL_MAX_BODY_BYTES; NATS: max_payload).
    max_message_bytes: int = Field(1_000_000, gt=0)
    # Simultaneous deliveries in a process. One subscriber gets at most half of them.
    concurrency: int = Field(8, ge=2)
    # Seconds between polls, which find messages of other processes on SQLite and of processes that have died. Ten times
    # longer if PostgreSQL notifies of the others.
    poll_seconds: float = Field(1, gt=0)
    # Seconds between two checks of whether the messages of this process, and those for it, are delivered.
    check_seconds: float = Field(10, gt=0)
    # PostgreSQL: publishing notifies the relays of other processes, each of which keeps a connection to listen.
    listen: bool = True
    # How long a handler may take. After 1.5 times as long, another process may take the message over.
    handler_timeout_seconds: float = Field(30, gt=0)
    # How long started deliveries may take when the process stops. Those that are cut off are repeated.
    stop_seconds: float = Field(5, ge=0)
    # An attempt counts when it begins. After the last one the message is abandoned: it stays, see `kernel messages`.
    max_attempts: int = Field(10, ge=1)
    # The pause after the first failure; it doubles, with jitter, up to the longest.
    backoff_seconds: float = Field(1, gt=0)
    max_backoff_seconds: float = Field(300, gt=0)
    # How long completed messages are kept, and how long a second delivery is recognised. The latter must be longer than
    # any delivery can take.
    keep_completed_days: float = Field(7, ge=0)
    keep_handled_days: float = Field(30, gt=0)

    @field_validator("broker_url")
    @classmethod
    def _is_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        scheme = value.get_secret_value().partition("://")[0]
        if scheme not in _CLIENTS:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in _CLIENTS)}")
        package, extra = _CLIENTS[scheme]
        if find_spec("faststream") is None or find_spec(package) is None:
            raise ValueError(f"needs the packages faststream and {package}: install platform-kernel[{extra}]")
        return value

    @property
    def is_local(self) -> bool:
        """Return whether the application runs on a developer's machine."""
        return self.environment is Environment.LOCAL

    @property
    def lease_seconds(self) -> float:
        """Return how long an attempt holds a message; after that its process counts as dead."""
        return self.handler_timeout_seconds * 1.5
