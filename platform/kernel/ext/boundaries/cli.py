"""The commands that judge a project: they join those of `kernel` where the walls are installed."""

import gc
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from kernel.ext.boundaries.commands import PytestCommand

Format = Literal["text", "json", "github"]

_COULD_NOT = 2
contracts = typer.Typer(help="The lock of the contracts: what other modules rely on.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to those of `kernel`."""
    app.command()(check)
    app.command()(owners)
    app.command("test", cls=PytestCommand)(run_tests)
    app.add_typer(contracts, name="contracts")


def check(
    output: Annotated[Format, typer.Option("--format", help="For people, programs, or pull requests.")] = "text",
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Accept today's findings in boundaries.ledger.json; later, strike out the paid.",
        ),
    ] = False,
    since: Annotated[str | None, typer.Option(help="The revision that the ledger may not have grown from.")] = None,
    prove: Annotated[bool, typer.Option("--prove", help="Plant violations in a copy and see each found.")] = False,
) -> None:
    """Look at every wall between the modules. 0: they stand; 1: findings; 2: it could not look."""
    from kernel.ext.boundaries import check as judge  # noqa: PLC0415
    from kernel.ext.boundaries import findings, ledger  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    root = _root()
    if prove:
        _prove(root)
        return
    gc.disable()  # what is read stays until the end, and to look for garbage in it takes half of the time
    try:
        project = Project(root)
        found = judge.check(project)
        if baseline:
            could_not = [one for one in found if one.rule == findings.COULD_NOT_CHECK]
            debts, found = ledger.write(project, [one for one in found if one not in could_not])
            found += could_not
            typer.echo(f"{ledger.FILE} has {debts} accepted finding(s).", err=True)
        else:
            found = ledger.apply(root, found, since)
    except ledger.LedgerError as error:
        _stop(str(error))
    show = {"text": findings.as_text, "json": findings.as_json, "github": findings.as_github}[output]
    if found or output == "json":
        typer.echo(show(found))
    if output != "json":
        typer.echo(f"{len(found)} finding(s)." if found else "The walls stand.", err=bool(found))
    if any(one.rule == findings.COULD_NOT_CHECK for one in found):
        raise typer.Exit(_COULD_NOT)
    if found:
        raise typer.Exit(1)


def _prove(root: Path) -> None:
    from kernel.ext.boundaries.self_test import ProofError, prove  # noqa: PLC0415

    typer.echo("Planting in copies of the project, one process a core; this takes some 20 seconds.", err=True)
    try:
        proof = prove(root)
    except ProofError as error:
        _stop(str(error))
    typer.echo(proof.table())
    if proof.failures:
        typer.echo("\n".join(proof.failures), err=True)
        raise typer.Exit(1)


def owners(
    write: Annotated[bool, typer.Option("--write", help="Bring CODEOWNERS up to date.")] = False,
) -> None:
    """Show CODEOWNERS as the manifests would have it."""
    from kernel.ext.boundaries.owners import place, written  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    project = Project(_root())
    text, path = written(project), place(project.root)
    if not write:
        typer.echo(text, nl=False)
        return
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    typer.echo(f"Wrote {path.relative_to(project.root)}.")


def run_tests(
    ctx: typer.Context,
    modules: Annotated[list[str] | None, typer.Argument(help="By default those that changed.")] = None,
    changed: Annotated[
        str | None, typer.Option(metavar="[REV]", help="Also those that differ from REV; by default, from main.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Run all; name the failures that it would have skipped.")
    ] = False,
    only_list: Annotated[bool, typer.Option("--list", help="Only say what would run, and why.")] = False,
) -> None:
    """Look at the walls and run the tests that a change to some modules asks for; what follows `--` is pytest's."""
    from kernel.ext.boundaries.commands import run  # noqa: PLC0415

    def walls() -> int:
        try:
            check()
        except typer.Exit as broken:
            return broken.exit_code
        return 0

    code = run(
        _root(),
        modules or [],
        changed=changed,
        whole=whole,
        only_list=only_list,
        pytest_arguments=ctx.args,
        check=walls,
    )
    raise typer.Exit(code)


@contracts.command("lock")
def lock_contracts(
    drop: Annotated[
        list[str] | None, typer.Option(metavar="MODULE.NAME", help="A contract or message that may be removed.")
    ] = None,
) -> None:
    """Write each module's contract.lock.json. Refuses a breaking change whose version was not raised."""
    from kernel.ext.boundaries import lock  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    try:
        typer.echo(lock.write(Project(_root()), frozenset(drop or ())))
    except lock.LockError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None


@contracts.command("diff")
def explain_contracts() -> None:
    """Explain how the contracts differ from their locks, and which differences are breaking."""
    from kernel.ext.boundaries import lock  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    try:
        lines = lock.explain(Project(_root()))
    except lock.LockError as error:
        _stop(str(error))
    typer.echo("\n".join(lines) or "The contracts are as they are locked.")


def _root() -> Path:
    """The project we are in: the nearest folder upwards with modules/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "modules").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return _stop(f"There is no project at {here}: no folder upwards has both modules/ and pyproject.toml.")


def _stop(message: str) -> NoReturn:
    typer.secho(message, fg="red", err=True)
    sys.exit(_COULD_NOT)
