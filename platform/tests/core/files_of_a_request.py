"""Trace which files of the kernel a GET and a POST enter, and print them as the table in docs/architecture.md.

`python -m tests.core.files_of_a_request`
"""

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from kernel.application import create_app
from kernel.extension import installed
from kernel.project import Project
from kernel.testing import project_for
from kernel.testing.booting import talking_to
from tests.core.lines import KERNEL
from tests.core.project import imported_alone

NOTES = Path(__file__).parents[1] / "drill" / "project"
_ROW = re.compile(r"\| `[\w/]+\.py` \|")


@contextmanager
def traced() -> Iterator[set[str]]:
    """Collect the files of the kernel in which a function is called or resumed."""
    entered: set[str] = set()
    kernel = f"{KERNEL}/"

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(kernel):
            entered.add(file.removeprefix(kernel))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(before)


def project_in(folder: Path, *, with_extensions: bool) -> Project:
    """Return the module notes as a project in `folder`, with all extensions or without any."""
    for name in ("modules", "migrations"):
        shutil.copytree(NOTES / name / "notes", folder / name / "notes", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "modules" / "__init__.py").touch()
    unwanted = [] if with_extensions else sorted(installed().extensions)
    (folder / "pyproject.toml").write_text(f"[tool.kernel]\nwithout-extensions = {unwanted}\n")
    # Without a relay, no work of its own enters a file while a request is traced.
    quiet = {"MESSAGING_RELAY": "false"} if "messaging" in installed().extensions and with_extensions else {}
    return project_for(folder, {"DATABASE_URL": f"sqlite:///{folder / 'data'}", "AUTH_ENABLED": "false", **quiet})


async def files_of_requests(project: Project) -> tuple[set[str], set[str]]:
    """Return the files that a GET and a POST enter, once caches are warm."""
    app = create_app(*project)
    async with app.router.lifespan_context(app), talking_to(app) as client:
        found = []
        for _ in range(2):
            with traced() as of_post:
                created = await client.post("/api/v1/notes", json={"title": "Milk"})
            with traced() as of_get:
                read = await client.get(created.headers["location"])
            found = [of_get, of_post]
            assert (created.status_code, read.status_code) == (201, 200)
    of_get, of_post = ({one for one in files if not one.startswith("testing/")} for files in found)
    return of_get, of_post


def trace(folder: Path, *, with_extensions: bool) -> tuple[set[str], set[str]]:
    """Return the files that a GET and a POST of notes enter, with all extensions or with none."""
    with imported_alone():
        return asyncio.run(files_of_requests(project_in(folder, with_extensions=with_extensions)))


def documented(column: int) -> set[str]:
    """Return the files in one column of the table in docs/architecture.md."""
    page = (KERNEL.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if _ROW.match(line)]
    return {row[0].strip("`") for row in rows if row[column] == "x"}


def table(columns: Sequence[set[str]]) -> str:
    """Return the table: for the core alone and for all extensions, the files of a GET and those of a POST."""
    files = sorted(set().union(*columns), key=lambda file: (file.startswith("ext/"), file))
    lines = (
        "| file below `platform/kernel` | GET, core alone | POST, core alone | GET, all | POST, all |",
        "|---|---|---|---|---|",
        f"| all of them | {' | '.join(str(len(column)) for column in columns)} |",
        *(f"| `{file}` | {' | '.join('x' if file in column else ' ' for column in columns)} |" for file in files),
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        found = [trace(Path(name) / str(choice), with_extensions=choice) for choice in (False, True)]
        sys.stdout.write(table([column for columns in found for column in columns]))
