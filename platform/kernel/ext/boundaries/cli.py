"""The commands of the boundary checks: `kernel check`, `test`, `owners` and `contracts`."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from kernel.ext.boundaries.commands import PytestCommand

Format = Literal["text", "json", "github"]

_COULD_NOT = 2
contracts = typer.Typer(help="Lock the contracts that other modules rely on.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line. A deployment has no import-linter, and none of these commands."""
    if find_spec("importlinter") is None:
        return
    app.command()(check)
    app.command()(owners)
    app.command("test", cls=PytestCommand)(run_tests)
    if find_spec("kernel.ext.remote") is not None:  # it compares contracts
        app.add_typer(contracts, name="contracts")


def check(
    output: Annotated[Format, typer.Option("--format", help="For people, programs or pull requests.")] = "text",
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Accept the current findings in boundaries.ledger.json; later, remove those that are fixed.",
        ),
    ] = False,
    since: Annotated[str | None, typer.Option(help="Report findings added to the ledger after this revision.")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Apply known violations to a copy, and check that each is found.")
    ] = False,
) -> None:
    """Check the boundaries between modules. Exit code 0: no findings; 1: findings; 2: a check could not run."""
    from kernel.ext.boundaries import check as rules  # noqa: PLC0415
    from kernel.ext.boundaries import findings, ledger  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    root = _root()
    if self_test:
        _self_test(root)
        return
    gc.disable()  # everything that is read stays in use until the end, and collections take half of the time
    try:
        project = Project(root)
        found = rules.check(project)
        if baseline:
            could_not = [one for one in found if one.rule == findings.COULD_NOT_CHECK]
            debts, found = ledger.write(project, [one for one in found if one not in could_not])
            found += could_not
            typer.echo(f"{ledger.FILE} lists {debts} accepted finding(s).", err=True)
        else:
            found = ledger.apply(root, found, since)
    except ledger.LedgerError as error:
        _stop(str(error))
    show = {"text": findings.as_text, "json": findings.as_json, "github": findings.as_github}[output]
    if found or output == "json":
        typer.echo(show(found))
    if output != "json":
        typer.echo(f"{len(found)} finding(s)." if found else "No boundary violations found.", err=bool(found))
    if any(one.rule == findings.COULD_NOT_CHECK for one in found):
        raise typer.Exit(_COULD_NOT)
    if found:
        raise typer.Exit(1)


def _self_test(root: Path) -> None:
    from kernel.ext.boundaries.self_test import SelfTestError, run_self_test  # noqa: PLC0415

    typer.echo("Trying every violation in copies of the project. This takes about a minute on two cores.", err=True)
    try:
        result = run_self_test(root)
    except SelfTestError as error:
        _stop(str(error))
    typer.echo(result.table())
    if result.failures:
        typer.echo("\n".join(result.failures), err=True)
        raise typer.Exit(1)


def owners(
    write: Annotated[bool, typer.Option("--write", help="Update CODEOWNERS.")] = False,
) -> None:
    """Print CODEOWNERS with the owners from the manifests."""
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
    modules: Annotated[list[str] | None, typer.Argument(help="By default, the modules that changed.")] = None,
    changed: Annotated[
        str | None, typer.Option(metavar="[REV]", help="Also the modules that differ from REV; by default, from main.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Run all tests; list the failures that the selection would have skipped.")
    ] = False,
    only_list: Annotated[bool, typer.Option("--list", help="List what would run, and why.")] = False,
) -> None:
    """Check the boundaries and run the tests of the changed modules. Arguments after `--` go to pytest."""
    from kernel.ext.boundaries.commands import run  # noqa: PLC0415

    def check_boundaries() -> int:
        try:
            check()
        except typer.Exit as stopped:
            return stopped.exit_code
        return 0

    code = run(
        _root(),
        modules or [],
        changed=changed,
        whole=whole,
        only_list=only_list,
        pytest_arguments=ctx.args,
        check=check_boundaries,
    )
    raise typer.Exit(code)


@contracts.command("lock")
def lock_contracts(
    drop: Annotated[
        list[str] | None, typer.Option(metavar="MODULE.NAME", help="A contract or message that may be removed.")
    ] = None,
) -> None:
    """Write contract.lock.json of each module. Refuse a breaking change without a new version."""
    from kernel.ext.boundaries import lock  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    try:
        typer.echo(lock.write(Project(_root()), frozenset(drop or ())))
    except lock.LockError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None


@contracts.command("diff")
def explain_contracts() -> None:
    """List how the contracts differ from their locks, and which differences are breaking."""
    from kernel.ext.boundaries import lock  # noqa: PLC0415
    from kernel.ext.boundaries.project import Project  # noqa: PLC0415

    try:
        lines = lock.explain(Project(_root()))
    except lock.LockError as error:
        _stop(str(error))
    typer.echo("\n".join(lines) or "The contracts match their locks.")


def _root() -> Path:
    """Return the nearest folder upwards that has modules/ and pyproject.toml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "modules").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return _stop(f"{here} is not in a project: neither it nor a parent folder has both modules/ and pyproject.toml.")


def _stop(message: str) -> NoReturn:
    typer.secho(message, fg="red", err=True)
    sys.exit(_COULD_NOT)
