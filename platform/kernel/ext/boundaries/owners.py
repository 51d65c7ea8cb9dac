"""The rule owned: every module has an owner, and CODEOWNERS names the owner as reviewer."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import FOLDERS, Project

RULE = "owned"
# The places where GitHub and GitLab look for it. The first that exists is updated.
_PLACES = (".github/CODEOWNERS", "CODEOWNERS", "docs/CODEOWNERS", ".gitlab/CODEOWNERS")
_BEGIN = "# Written by `kernel owners --write` from the modules' manifests. Edit only the lines outside this block."
_END = "# The end of what `kernel owners --write` wrote."


def check(project: Project) -> Iterator[Finding]:
    """Find modules without an owner, and a CODEOWNERS file that differs from the manifests."""
    for module in project.modules.values():
        if not (module.owner or "").strip():
            why = f"{module.name} has no owner to review its changes and fix its faults."
            instead = 'Name the responsible team: Module(owner="your-team").'
            yield Finding(module.manifest, module.line, RULE, why, instead)
    path = place(project.root)
    after = _text(path).partition(_END)[2].splitlines()
    for line in after:
        if line.startswith(("* ", "/modules", "modules", "/migrations", "migrations", "/tests", "tests")):
            why = f"The line {line!r} comes later and overrides the owners in the manifests."
            yield Finding(path.relative_to(project.root).as_posix(), 0, RULE, why, "Move it above the written lines.")
    if project.modules and _block(_text(path)) != sorted(_lines(project)):
        why = "CODEOWNERS does not match the owners in the manifests, so reviews go to the wrong team."
        yield Finding(path.relative_to(project.root).as_posix(), 0, RULE, why, "Run `kernel owners --write`.")


def place(root: Path) -> Path:
    """Return the path of CODEOWNERS, whether or not it exists."""
    return next((root / one for one in _PLACES if (root / one).is_file()), root / _PLACES[0])


def written(project: Project) -> str:
    """Return CODEOWNERS with the owners from the manifests. Other lines stay.

    A manifest's owner is the name of a team. `[tool.kernel.boundaries] team = "@acme/{}"` in pyproject.toml makes it
    the name on the forge; the default is "@{}".
    """
    lines, text = _lines(project), _text(place(project.root))
    if _block(text) == sorted(lines):
        return text  # in the order that a merge left
    block = "\n".join([_BEGIN, *lines, _END])
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        return f"{before}{block}{after}"
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"


def _lines(project: Project) -> list[str]:
    """Return the lines for the folders of each module, sorted by module."""
    team = _team(project.root)
    return [
        f"/{folder}/{module.name}/ {team.replace('{}', module.owner or '')}"
        for module in project.modules.values()
        if module.owner
        for folder in FOLDERS
        if (project.root / folder / module.name).is_dir()
    ]


def _block(text: str) -> list[str] | None:
    """Return the written lines, sorted, because their order has no effect; None if there are none."""
    _, begin, rest = text.partition(f"{_BEGIN}\n")
    block, end, _ = rest.partition(_END)
    return sorted(block.splitlines()) if begin and end else None


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def _team(root: Path) -> str:
    file = root / "pyproject.toml"
    settings = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    return str(settings.get("tool", {}).get("kernel", {}).get("boundaries", {}).get("team", "@{}"))
