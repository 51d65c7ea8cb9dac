"""`kernel messages` and `kernel relay`."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kernel.cli.console import fail, load_kernel, print_table

if TYPE_CHECKING:
    from kernel.ext.messaging.bus import MessageBus
    from kernel.ext.messaging.outbox import Outbox
    from kernel.runtime import Kernel

Result = TypeVar("Result")
OfModule = Annotated[str, typer.Argument(help="The module that published.")]
_LARGEST_ID = 2**63 - 1


app = typer.Typer(help="Inspect the messages between modules, and repair failed deliveries.", no_args_is_help=True)


def add_to(cli: typer.Typer) -> None:
    """Add these commands to those of `kernel`."""
    cli.add_typer(app, name="messages")
    cli.command()(relay)


def relay() -> None:
    """Deliver messages and serve no requests. Any number may run beside the processes that serve."""
    asyncio.run(_relay(load_kernel()))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Count the messages by subscriber and state, with the age of the oldest."""
    from kernel.ext.messaging.operations import backlog  # noqa: PLC0415

    rows = [row for part in _on_all(lambda outbox: backlog(outbox, with_completed=True)) for row in part]
    bus = _bus(load_kernel())
    shown = [
        {
            "module": row.module, "subscriber": row.subscriber, "state": row.state.value, "messages": row.messages,
            "attempts": row.attempts, "oldest_seconds": round(row.oldest_seconds, 1),
            "delivered_here": bus.reads(row.subscriber, row.newest),
            "delivered_by": bus.way_of(row.subscriber),
        }
        for row in rows
    ]  # fmt: skip
    _show(shown + _on_broker(), as_json=as_json, otherwise="No messages.")


def _on_broker() -> list[dict[str, Any]]:
    """Return the backlog of the broker, as rows of `status`."""
    from kernel.ext.messaging.brokers.broker import BrokerUnavailable  # noqa: PLC0415
    from kernel.ext.messaging.extension import Messaging  # noqa: PLC0415

    kernel = load_kernel()
    try:
        found = asyncio.run(_bus(kernel).on_broker(kernel.get(Messaging).published()))
    except BrokerUnavailable as error:
        typer.echo(f"The backlog of the broker is unknown. {error}", err=True)
        return []
    return [
        {
            "module": one.name.partition(".")[0], "subscriber": f"{one.group or 'no group yet'} ({one.name})",
            "state": "on the broker", "messages": one.messages, "attempts": 0, "oldest_seconds": None,
            "delivered_here": one.group in kernel.contexts, "delivered_by": "the broker",
        }
        for one in found
        if one.messages
    ]  # fmt: skip


@app.command()
def failed(module: Annotated[str | None, typer.Argument(help="Only this module's.")] = None) -> None:
    """List messages that failed and will be tried again."""
    from kernel.ext.messaging.tables import State  # noqa: PLC0415

    _list(State.FAILED, module)


@app.command()
def abandoned(module: Annotated[str | None, typer.Argument(help="Only this module's.")] = None) -> None:
    """List messages that were tried MESSAGING_MAX_ATTEMPTS times."""
    from kernel.ext.messaging.tables import State  # noqa: PLC0415

    _list(State.ABANDONED, module)


@app.command()
def show(module: OfModule, id_: Annotated[int, typer.Argument(metavar="ID", min=1, max=_LARGEST_ID)]) -> None:
    """Show one message with its payload and its last error, as JSON."""
    from kernel.ext.messaging.operations import find  # noqa: PLC0415

    [found] = _on_all(lambda outbox: find(outbox, (), [id_]), module)
    if not found:
        fail(f"{module} has no message {id_} in its outbox.")
    typer.echo(json.dumps(found[0], indent=2, default=str))


@app.command()
def retry(
    module: OfModule,
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", min=1, max=_LARGEST_ID)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All failed and abandoned messages.")] = False,
) -> None:
    """Deliver abandoned and failed messages again now."""
    from kernel.ext.messaging.operations import retry as deliver_again  # noqa: PLC0415

    if bool(ids) == everything:
        fail("Name the messages by their ids, or use --all.")
    [found] = _on_all(lambda outbox: deliver_again(outbox, ids or ()), module)
    if missing := set(ids or ()) - set(found):
        fail(f"No failed or abandoned messages with these ids: {', '.join(map(str, sorted(missing)))}")
    typer.echo(f"Will be delivered again: {', '.join(map(str, found)) or 'none'}")


@app.command()
def purge(
    subscriber: Annotated[
        str | None, typer.Option(help="Instead, delete the messages for a subscriber that no longer exists.")
    ] = None,
) -> None:
    """Delete completed messages older than MESSAGING_KEEP_COMPLETED_DAYS. A running relay does this too."""
    from kernel.ext.messaging.operations import forget  # noqa: PLC0415

    if subscriber is not None:
        if subscriber in _bus(load_kernel()).targets:
            fail(f"{subscriber} exists and gets its messages. Name a subscriber that no longer exists.")
        typer.echo(f"Removed: {sum(_on_all(lambda outbox: forget(outbox, subscriber)))}")
        return
    kernel = load_kernel()
    typer.echo(f"Removed: {asyncio.run(_closing(kernel, _bus(kernel).purge()))}")


@app.command()
def move(
    subscriber: Annotated[str, typer.Argument(help="The former name of the handler: `events.old_name`.")],
    to: Annotated[str, typer.Argument(help="The present name of the handler: `events.new_name`.")],
) -> None:
    """Give the messages for a renamed handler to its successor."""
    from kernel.ext.messaging.operations import move as give  # noqa: PLC0415

    targets = _bus(load_kernel()).targets
    if subscriber in targets:
        fail(f"{subscriber} exists and gets its messages. Name a handler that no longer exists.")
    if to not in targets:
        fail(f"There is no subscriber {to}. There are: {', '.join(sorted(targets)) or 'none'}.")
    typer.echo(f"Moved: {sum(_on_all(lambda outbox: give(outbox, subscriber, to)))}")


def _on_all(work: "Callable[[Outbox], Awaitable[Result]]", only: str | None = None) -> list[Result]:
    """Return the results of `work` for each outbox, or for the one of a module."""
    kernel = load_kernel()
    outboxes = _bus(kernel).outboxes
    if only is not None and only not in outboxes:
        fail(f"There is no module {only} with an outbox. Modules with one: {', '.join(outboxes) or 'none'}.")

    async def run() -> list[Result]:
        return [await work(outbox) for name, outbox in outboxes.items() if only in {None, name}]

    from kernel.database.errors import FAILURES, DatabaseUnavailable  # noqa: PLC0415

    try:
        return asyncio.run(_closing(kernel, run()))
    except (*FAILURES, DatabaseUnavailable) as error:
        why = getattr(error, "orig", None) or error
        fail(f"The messages cannot be read: {why}\nCheck that it runs and has all migrations (`kernel migrate`).")


def _list(state: Any, module: str | None) -> None:
    from kernel.ext.messaging.operations import find  # noqa: PLC0415

    async def rows_of(outbox: "Outbox") -> list[dict[str, Any]]:
        return [
            {
                "module": outbox.module, "id": row["id"], "message": f"{row['name']} v{row['version']}",
                "subscriber": row["subscriber"], "attempts": row["attempts"], "error": row["error"],
            }
            for row in await find(outbox, [state])
        ]  # fmt: skip

    _show([row for part in _on_all(rows_of, module) for row in part], as_json=False, otherwise=f"Nothing is {state}.")


def _show(rows: list[dict[str, Any]], *, as_json: bool, otherwise: str) -> None:
    from rich.table import Table  # noqa: PLC0415

    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(otherwise)
        return
    table = Table(*(name.replace("_", " ").capitalize() for name in rows[0]))
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    print_table(table)


async def _closing(kernel: "Kernel", work: Awaitable[Result]) -> Result:
    try:
        return await work
    finally:
        await kernel.pool.close()


def _bus(kernel: "Kernel") -> "MessageBus":
    from kernel.ext.messaging.bus import MessageBus  # noqa: PLC0415  # so that `--help` is quick

    return kernel.get(MessageBus)


async def _relay(kernel: "Kernel") -> None:
    from kernel.ext.messaging.extension import Messaging  # noqa: PLC0415
    from kernel.ext.messaging.settings import MessagingSettings  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415

    configure_logging(kernel.settings.log)
    is_over = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal_, is_over.set)
    async with AsyncExitStack() as stack:
        if (port := kernel.settings.group(MessagingSettings).relay_port) is not None:
            from kernel.ext.messaging.probes import answering  # noqa: PLC0415
            from kernel.serving import listen  # noqa: PLC0415

            try:
                sock = listen(kernel.settings.server.host, port)
            except OSError as error:
                fail(f"Cannot listen on port {port} ({error.strerror}): choose another MESSAGING_RELAY_PORT.")
            await stack.enter_async_context(answering(kernel, sock))
        kernel.get(Messaging).delivers = True
        await stack.enter_async_context(kernel.running())
        await is_over.wait()
        kernel.is_stopping = True
