"""Which module owns which tables, as its models and migrations say."""

import ast
import re
from functools import cached_property

from walls.project import Project, Slice, module_of
from walls.sources import Source, argument, class_value, last_name
from walls.strings import UNKNOWN, Strings


class Owned:
    """Which module owns which tables and entities, as its models and migrations say."""

    def __init__(self, project: Project) -> None:
        self.tables: dict[str, set[str]] = {name: set() for name in project.modules}
        self.entities: dict[str, set[str]] = {name: set() for name in project.modules}
        for module, source in project.of_modules():
            strings = Strings(project, source)
            for node in source.classes:
                if (value := class_value(node, "__tablename__")) is not None:
                    self.tables[module.name].update(strings.of(value))
                    self.entities[module.name].add(node.name)
            for call in source.calls:
                if _is_own_table(project, module, source, call):
                    self.tables[module.name].update(strings.of(argument(call, "name", 0)))
        for name, sources in project.migrations.items():
            for source in sources if name in project.modules else ():
                strings = Strings(project, source)
                for call in source.calls:
                    if last_name(call.func) == "create_table":
                        self.tables[name].update(strings.of(argument(call, "table_name", 0)))

    @cached_property
    def words(self) -> re.Pattern[str]:
        """Whatever has none of these words names nobody's table."""
        names = {*self.tables, *(table for tables in self.tables.values() for table in tables), "search_path", "role"}
        return re.compile(rf"(?i)(?<![a-z0-9])(?:{'|'.join(map(re.escape, sorted(names)))}|authorization)(?![a-z0-9])")

    def owner(self, module: str, table: str | None, schema: str | None = None) -> str | None:
        """The other module that a table belongs to, seen from `module`; None if it is its own or nobody's."""
        if schema is not None and schema != UNKNOWN:
            return schema if schema in self.tables and schema != module else None
        if table is None or table in self.tables.get(module, set()):
            return None
        return next((name for name, tables in self.tables.items() if table in tables), None)


def _is_own_table(project: Project, module: Slice, source: Source, call: ast.Call) -> bool:
    """Whether a call makes a table on the module's own metadata, as an association table is made."""
    if not (source.named(call.func) or "").startswith("sqlalchemy") or last_name(call.func) != "Table":
        return False
    metadata = source.named(argument(call, "metadata", 1)) or ""
    home = project.definition(metadata.removesuffix(".metadata"))
    return home is not None and module_of(home[0].dotted) == module.name and argument(call, "schema") is None
