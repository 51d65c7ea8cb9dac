"""The rule one-history: the migrations of a module apply in one order.

Two branches that each add `0002_*.py` merge without a conflict in git, as the files have different names. Alembic would
then know one of them, and never apply the other.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from kernel.database.revisions import conflicts, read_revision
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project

RULE = "one-history"


def check(project: Project) -> Iterator[Finding]:
    """Find two revisions with one number, several ends of one history, and revisions that follow a missing one."""
    for name in project.modules:
        folder = f"migrations/{name}"
        files = {PurePosixPath(source.path): source.tree for source in project.migrations.get(name, ())}
        revisions = {
            path.name: read_revision(tree)
            for path, tree in sorted(files.items())
            if str(path.parent) == folder and path.name != "__init__.py"
        }
        for file, why, instead in conflicts(folder, revisions):
            yield Finding(file, 1, RULE, why, instead)
