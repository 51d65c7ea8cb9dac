"""The command `kernel`. Heavy imports are inside the commands, so that `--help` is quick."""

import asyncio
import gc
import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated

import typer

from kernel.cli.console import fail, histories, load_kernel
from kernel.errors import ProjectError
from kernel.extension import COMMANDS_GROUP

if TYPE_CHECKING:
    from kernel.database.migrations import History

app = typer.Typer(help="Serve and migrate a modular monolith.", no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Run a command. An error in the project ends it with one message and exit code 1."""
    for point in entry_points(group=COMMANDS_GROUP):
        with suppress(ModuleNotFoundError):  # of an extension whose dependencies are not installed
            point.load()(app)
    try:
        app()
    except ProjectError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Overrides SERVER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Overrides SERVER_PORT.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, with the extension server. Overrides SERVER_WORKERS.")
    ] = None,
    reload: Annotated[bool | None, typer.Option(help="Overrides SERVER_RELOAD.")] = None,
    modules: Annotated[
        str | None,
        typer.Option(help="Serve only these: events,health. Overrides ENABLED_MODULES. Others need their <NAME>_URL."),
    ] = None,
) -> None:
    """Serve the application over HTTP."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    # A single process has nothing to reload; the supervisor of several sets a handler of its own.
    on_hangup = hangup and signal.signal(hangup, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server sets its own
    # What is imported and assembled from here on stays alive; searching it for garbage takes a tenth of the start.
    gc.disable()
    from kernel.project import load_project  # noqa: PLC0415
    from kernel.serving import listen, runner_for  # noqa: PLC0415

    overrides = {"SERVER_HOST": host, "SERVER_PORT": port, "SERVER_WORKERS": workers, "SERVER_RELOAD": reload}
    overrides["ENABLED_MODULES"] = modules
    # Into the environment, so that reloaded processes and workers read the same values.
    os.environ.update({name: str(value) for name, value in overrides.items() if value is not None})
    project = load_project()
    settings = project.settings
    server = settings.server
    if server.reload and hangup:  # it ends with its terminal
        signal.signal(hangup, on_hangup)
    try:
        sock = listen(server.host, server.port)
    except OSError as error:
        fail(
            f"Cannot listen on {server.host}:{server.port} ({error.strerror}). "
            "Stop the process that uses the port, or choose another: make run PORT=8001"
        )
    base = f"http://{server.host}:{sock.getsockname()[1]}{server.root_path}"
    typer.echo(f"API      {base}/api/v1")
    if settings.application.openapi_url is not None:
        for name, path in ((name, path) for one in project.extensions for name, path in one.pages.items()):
            typer.echo(f"{name:<8} {base}{path}")
    if any(module.name == "health" for module in project.modules):
        typer.echo(f"Health   {base}/health")
    os.chdir(settings.root)
    sys.exit(runner_for(project)(project, sock))


@app.command()
def migrate(
    module: Annotated[str | None, typer.Argument(help="Only this module.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail if migrations or models disagree.")
    ] = False,
    down_to: Annotated[
        str | None, typer.Option(help="Undo what came after this revision of MODULE; `base`: all.")
    ] = None,
    stamp: Annotated[
        str | None,
        typer.Option(help="Run nothing: note that MODULE's tables are as after this revision (docs/migrations.md)."),
    ] = None,
) -> None:
    """Bring the tables of all modules to their newest migration, in the order of their dependencies."""
    if (down_to, stamp) != (None, None) and module is None:
        fail("--down-to and --stamp concern the migrations of one module: name the module.")
    if sum((check, down_to is not None, stamp is not None)) > 1:
        fail("--check, --down-to and --stamp exclude each other: give one of them.")
    chosen = histories(module)
    if check:
        _check(chosen)
        return
    for history in chosen:
        typer.echo(f"{history.module}: ", nl=False)
        if down_to is not None:
            asyncio.run(history.downgrade(down_to))
            typer.echo(f"down to {down_to}")
        elif stamp is not None:
            asyncio.run(history.stamp(stamp))
            typer.echo(f"noted as {stamp}. Compare the tables with the models: kernel migrate --check")
        else:
            asyncio.run(history.upgrade())
            typer.echo("at its newest migration")
    _name_those_elsewhere()


def _name_those_elsewhere() -> None:
    """Where all processes share their settings, modules with an address are not in this one."""
    for name in load_kernel().settings.elsewhere:
        typer.echo(f"{name}: runs elsewhere ({name.upper()}_URL); here: ENABLED_MODULES={name} kernel migrate")


def _check(chosen: "list[History]") -> None:
    problems, not_compared = [], []
    for history in chosen:
        problems += [f"{history.module} lacks migration {revision}" for revision in asyncio.run(history.pending())]
        if history.inspector is None:
            not_compared.append(f"{history.module}: tables and models were not compared (docs/migrations.md)")
            continue
        found = asyncio.run(history.inspector.compare(history))
        problems += [f"{history.module}: tables and models differ: {change}" for change in found.differences]
        not_compared += [f"{history.module}: not compared: {part}" for part in found.not_compared]
    if problems:
        fail("\n".join(problems))
    agrees = " and agrees with the models" if all(history.inspector for history in chosen) else ""
    typer.echo("\n".join([f"Every database is at its newest migration{agrees}.", *not_compared]))
