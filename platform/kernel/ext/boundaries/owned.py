"""Find out which module owns which tables, from models and migrations."""

import re
from functools import cache

from kernel.ext.boundaries.callees import called
from kernel.ext.boundaries.project import Project, module_of
from kernel.ext.boundaries.sources import argument
from kernel.ext.boundaries.strings import UNKNOWN, Strings

# Words of the SQL that no module may use: see `forbidden` in `kernel.ext.boundaries.sql`.
_ALWAYS = ("search_path", "role", "authorization", "attach")


class Owned:
    """The tables that each module owns."""

    def __init__(self, project: Project) -> None:
        self.tables: dict[str, set[str]] = {name: set() for name in project.modules}
        for one in project.facts.get("metadata", {}).get("tables", ()):
            module = module_of(one["path"].removesuffix(".py").replace("/", "."))
            if module in self.tables and one["schema"] in {None, module} and module_of(one["base"] or "") == module:
                self.tables[module].add(one["name"])
        for name, sources in project.migrations.items():
            for source in sources if name in project.modules else ():
                strings = Strings(project, source)
                for call, dotted in called(project, source):
                    if dotted in {"alembic.op.create_table", "?.create_table"}:
                        self.tables[name].update(strings.of(argument(call, "table_name", 0)))
        self.words = cache(self._words)

    def _words(self, module: str) -> re.Pattern[str]:
        """Return a pattern of words. A text without a match names no table of another module."""
        own = self.tables.get(module, set())
        others = {one for name, tables in self.tables.items() if name != module for one in (name, *tables)} - own
        return re.compile(rf"(?i)(?<![a-z0-9])(?:{'|'.join(map(re.escape, sorted({*others, *_ALWAYS})))})(?![a-z0-9])")

    def owner(self, module: str, table: str | None, schema: str | None = None) -> str | None:
        """Return the other module that owns a table, as seen from `module`; None for its own or an unknown table."""
        if schema is not None and schema != UNKNOWN:
            return schema if schema in self.tables and schema != module else None
        if table is None or table in self.tables.get(module, set()):
            return None
        return next((name for name, tables in self.tables.items() if table in tables), None)
