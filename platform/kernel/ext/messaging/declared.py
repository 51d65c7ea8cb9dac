"""Read what modules declare for messages: handlers, outbox and inbox tables, and the messages of their contracts."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Table

from kernel.ext.messaging.handlers import Handler, HandlerError, handlers_of, read_subscriptions
from kernel.ext.messaging.message import Message
from kernel.ext.messaging.tables import InboxTable, OutboxTable
from kernel.modules.discovery import DiscoveryError, ModuleFiles, declared


@dataclass(frozen=True)
class Declared:
    """The declarations of one module."""

    handlers: tuple[Handler, ...]
    # The messages that it publishes.
    messages: tuple[type[Message], ...]
    outbox: Table | None
    inbox: Table | None

    @classmethod
    def of(cls, files: ModuleFiles) -> "Declared":
        """Read the declarations of a module. Raises HandlerError and DiscoveryError."""
        file = files.get("handlers")
        return cls(
            handlers=() if file is None else tuple(handlers_of(files.name, file)),
            messages=messages_of(files.root, files.name),
            outbox=files.table(OutboxTable),
            inbox=files.table(InboxTable),
        )


def faults_of(files: ModuleFiles) -> Iterator[str]:
    """Yield each fault in the declarations of a module, with the file and the remedy."""
    try:
        found = Declared.of(files)
    except HandlerError as error:
        yield f"{error}."
        return
    except DiscoveryError as error:
        yield from error.problems
        return
    if found.handlers and found.inbox is None:
        yield (
            f"modules/{files.name}/handlers.py handles messages, but the module has no inbox to recognise second "
            'deliveries: add `class Inbox(InboxTable, Base): __tablename__ = "inbox"` to its models.py, and write the '
            "migration."
        )
    for message in dict.fromkeys((*found.messages, *(handler.message for handler in found.handlers))):
        if (missing := message.missing_upcast()) is not None:
            yield f"{message.__module__}: {missing}."


def messages_of(root: Path, name: str) -> tuple[type[Message], ...]:
    """Return the messages that a module declares; nothing else of it is imported. Raises DiscoveryError."""
    return tuple(value for value in declared(root, name) if issubclass(value, Message))


def handled_messages(handlers: Iterable[Handler], publisher: str) -> tuple[type[Message], ...]:
    """Return the messages of a publisher that these handlers handle."""
    messages = [handler.message for handler in handlers]
    return tuple(dict.fromkeys(one for one in messages if one.message_name().partition(".")[0] == publisher))


def subscribers_elsewhere(root: Path, here: Collection[str]) -> dict[str, list[str]]:
    """Return the handlers of modules that do not run here, by message: read from their handlers.py, not imported.

    Raises DiscoveryError.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((root / "modules").glob("*/handlers.py")):
        module = path.parent.name
        try:
            subscriptions = {} if module in here else read_subscriptions(path)
        except (SyntaxError, HandlerError) as error:
            raise DiscoveryError([f"{path} cannot be read, and messages for it would be lost: {error}"]) from None
        for function, message in subscriptions.items():
            found.setdefault(message, []).append(f"{module}.{function}")
    return found
