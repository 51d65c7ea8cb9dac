"""Start a project, read and write a note, and verify where the kernel and its extensions come from.

The drill runs this in the environment of a copy: `python start.py COPY DATA PRESENT ABSENT
REGISTERED`, the last three with comma-separated names of extensions.
"""

import asyncio
import importlib
import sys
from pathlib import Path

NOTES = "/api/v1/notes"


def verify_origin(copy: Path, present: set[str], absent: set[str]) -> None:
    """Raise AssertionError unless the kernel and the present extensions, and no others, are those of the copy."""
    for name in ("kernel", *(f"kernel.ext.{one}" for one in sorted(present))):
        file = importlib.import_module(name).__file__
        assert file is not None, f"{name} is no package with an __init__.py"
        assert Path(file).is_relative_to(copy), f"{name} was imported from {file}, which is not in {copy}"
    for name in sorted(absent):
        assert not _exists(f"kernel.ext.{name}"), f"kernel.ext.{name} can be imported, although its folder was removed"


def _exists(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return error.name != name  # It exists, and lacks another module.
    return True


async def serve(copy: Path, data: Path, registered: set[str]) -> None:
    """Start the application of the copy; create a note and read it."""
    import httpx2  # noqa: PLC0415  # not before the origin of the kernel is known

    from kernel.application import create_app  # noqa: PLC0415
    from kernel.testing.booting import project_for  # noqa: PLC0415

    project = project_for(copy, {"DATABASE_URL": f"sqlite:///{data}", "AUTH_ENABLED": "false"})
    in_use = {kind.name for kind in project.extensions}
    assert in_use == registered, f"in use are {sorted(in_use)} instead of {sorted(registered)}"
    app = create_app(*project)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://drill") as client,
    ):
        created = await client.post(NOTES, json={"title": "Milk"})
        assert created.status_code == 201, created.text
        read = await client.get(created.headers["location"])
        assert (read.status_code, read.json()["title"]) == (200, "Milk"), read.text


def main() -> None:
    """Run all steps; an exception ends the process with its traceback."""
    copy, data = Path(sys.argv[1]), Path(sys.argv[2])
    present, absent, registered = ({*names.split(",")} - {""} for names in sys.argv[3:6])
    verify_origin(copy, present, absent)
    sys.path.insert(0, str(copy))
    asyncio.run(serve(copy, data, registered))


if __name__ == "__main__":
    main()
