"""The rules contract-only, declared and acyclic for tests, migrations, imports by name and manifests."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import NamedTuple

from kernel.ext.boundaries.callees import called, callee
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project, module_of, part_of
from kernel.ext.boundaries.sources import Source, argument, constant
from kernel.ext.boundaries.strings import Strings

# Functions that take the name of a module to import, or of an attribute to replace in it.
_BY_NAME = frozenset(
    {
        "importlib.import_module",
        "__import__",
        "builtins.__import__",
        "importlib.__import__",
        "importlib.util.find_spec",
        "importlib.reload",
        "importlib.resources.files",
        "pkgutil.get_data",
        "pkgutil.get_loader",
        "pkgutil.resolve_name",
        "runpy.run_module",
        "runpy.run_path",
        "sys.modules.get",
        "pydoc.locate",
        "unittest.mock.patch",
    }
)
# Functions that run a text as Python code.
_RUNNING = frozenset({"exec", "eval", "compile", "builtins.exec", "builtins.eval", "builtins.compile"})
# Methods that do the same, of any object: pytest's monkeypatch, unittest.mock, pydantic's ImportString.
_METHODS_BY_NAME = frozenset(
    {
        "setattr", "delattr", "patch", "object", "multiple", "dict", "importorskip", "import_module", "import_string",
        "validate_python",
    }
)  # fmt: skip

_ASK = "Use its contract.py. If the contract lacks something, its owner can add it."


class Use(NamedTuple):
    """One place where a file of a module, its tests or its migrations uses another module."""

    module: str
    source: Source
    other: str
    # The full dotted name of the used part.
    name: str
    line: int
    # imports, names (in a string), or reaches (through an attribute, or a test of the other module)
    how: str

    @property
    def is_of_module(self) -> bool:
        """Return whether the module itself contains the use, not its tests or migrations."""
        return self.source.path.startswith("modules/")


def check(project: Project) -> Iterator[Finding]:
    """Check the uses between modules that import-linter does not see."""
    uses = list(_uses(project))
    yield from _contract_only(uses)
    own = [use for use in uses if use.is_of_module]
    yield from _declared(project, own)
    yield from _acyclic(project, own)


def _contract_only(uses: list[Use]) -> Iterator[Finding]:
    for use in uses:
        if part_of(use.name) == "contract":
            continue
        if use.how == "imports" and use.is_of_module:
            continue  # import-linter reports it
        why = f"This {use.how} {use.name}: other modules may use only the contract of {use.other}."
        yield Finding(use.source.path, use.line, "contract-only", why, _ASK)


def _uses(project: Project) -> Iterator[Use]:
    for owner, source in _owned(project):
        for name, line, how in _reached(project, source):
            other = module_of(name)
            if other is not None and other != owner and other in project.modules:
                yield Use(owner, source, other, name, line, how)


def _owned(project: Project) -> Iterator[tuple[str, Source]]:
    """Return every file of a module, its tests and its migrations."""
    for module, source in project.of_modules():
        yield module.name, source
    for sources in (project.tests, project.migrations):
        for owner, files in sources.items():
            yield from ((owner, source) for source in files if owner)


def _reached(project: Project, source: Source) -> Iterator[tuple[str, int, str]]:
    """Return the parts of modules that a file uses: the dotted name, the line, and how."""
    for found in source.imports:
        yield found.name, found.line, "imports"
        if test := project.tests_by_name.get(found.source or "") or project.tests_by_name.get(found.name):
            yield from ((one.name, found.line, "reaches") for one in test.imports)
    strings = Strings(project, source)
    for call, called_name in called(project, source):
        yield from ((name, call.lineno, "names") for name in _by_name(project, source, strings, call, called_name))
    if isinstance(plugins := source.definitions.get("pytest_plugins"), ast.Assign):
        texts = [text for node in ast.walk(plugins.value) for text in strings.of(node)]
        yield from ((text, plugins.lineno, "names") for text in texts if text.startswith("modules."))
    for node in source.nodes:
        if isinstance(node, ast.Subscript) and source.named(node.value) == "sys.modules":
            yield from ((text, node.lineno, "names") for text in strings.of(node.slice))
        elif isinstance(node, ast.Attribute):
            # After `import modules.images.contract`, other imported files of images are attributes too.
            dotted = source.named(node) or ""
            if dotted.startswith("modules.") and dotted.count(".") == 2:  # module and file
                is_local = "modules" not in source.names and ast.unparse(node) == dotted
                yield from () if is_local else [(dotted, node.lineno, "reaches")]


def _by_name(project: Project, source: Source, strings: Strings, call: ast.Call, name: str) -> Iterator[str]:
    """Return the names that a call imports or replaces. A relative name starts from `package`."""
    arguments = [*call.args[:2], *(one.value for one in call.keywords)]
    if name == "functools.partial" and call.args:
        name, arguments = callee(project, source, call.args[0]), call.args[1:]
    if name in _RUNNING:
        yield from (found for node in call.args[:1] for text in strings.of(node) for found in _imported_by(text))
    elif name in _BY_NAME or ("." in name and name.rpartition(".")[2] in _METHODS_BY_NAME):
        for text in (text for node in arguments for text in strings.of(node)):
            if text.startswith("modules."):
                yield text.replace(":", ".")
            elif text.startswith("modules/"):  # a path
                yield text.removesuffix(".py").replace("/", ".")
            elif text.startswith("."):
                for package in strings.of(argument(call, "package", 1)):
                    up = len(text) - len(text.lstrip("."))
                    start = package.split(".")
                    yield ".".join([*start[: len(start) - up + 1], text.lstrip(".")])


def _imported_by(text: str) -> Iterator[str]:
    """Return the names that a text of Python code imports, also with `__import__`."""
    try:
        source = Source("", "", text)
    except (SyntaxError, ValueError):
        return
    yield from (one.name for one in source.imports)
    named = [constant(one) for call in source.calls for one in call.args[:1]]
    yield from (one for one in named if one and one.startswith("modules."))


def _declared(project: Project, uses: list[Use]) -> Iterator[Finding]:
    used: dict[str, set[str]] = {name: set() for name in project.modules}
    for use in uses:
        module, other = project.modules[use.module], use.other
        if other not in module.depends_on and other not in used[module.name]:
            why = f"{module.name} uses {other}, but its manifest does not declare it."
            instead = f'Add "{other}" to depends_on in {module.manifest}, or remove the use.'
            yield Finding(use.source.path, use.line, "declared", why, instead)
        used[module.name].add(other)
    for module in project.modules.values():
        for other, line in module.depends_on.items():
            if other not in project.modules:
                why, instead = f"{module.name} depends on {other}, but there is no such module.", "Correct the name."
            elif other not in used[module.name]:
                why = f"{module.name} declares that it depends on {other}, but does not use it."
                instead = f'Remove "{other}" from depends_on.'
            else:
                continue
            yield Finding(module.manifest, line, "declared", why, instead)


def _acyclic(project: Project, uses: list[Use]) -> Iterator[Finding]:
    """Find cycles that imports alone do not show: in manifests, and by names in strings."""
    graph = {module.name: set(module.depends_on) & set(project.modules) for module in project.modules.values()}
    lines = {
        (module.name, other): (module.manifest, line)
        for module in project.modules.values()
        for other, line in module.depends_on.items()
    }
    imported: dict[str, set[str]] = {name: set() for name in graph}
    for use in uses:
        graph[use.module].add(use.other)
        lines[use.module, use.other] = (use.source.path, use.line)
        if use.how == "imports":
            imported[use.module].add(use.other)
    if _cycle(imported):
        return  # import-linter reports it
    cycle = _cycle(graph)
    if cycle:
        # Imports alone form no cycle: a manifest or a name in a string closes it.
        edges = list(pairwise(cycle))
        path, line = lines[next((edge for edge in edges if edge[1] not in imported[edge[0]]), edges[0])]
        why = f"Modules depend on each other in a cycle: {' -> '.join(cycle)}."
        instead = "Reverse one dependency, or move the shared part into a third module."
        yield Finding(path, line, "acyclic", why, instead)


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of a cycle, each depending on the next, the first again at the end; [] without a cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])[::-1]
    return []
