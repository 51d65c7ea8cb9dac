"""The rules layers and libraries, as far as import-linter does not check them."""

from collections.abc import Iterator, Mapping, Sequence

from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project, Slice, module_of, part_of
from kernel.ext.boundaries.sources import Source

# The files of each layer, from top to bottom; and the place of the layer of each file.
Layers = Sequence[Sequence[str]]
Ranks = Mapping[str, int]

# Where the files of one layer put what they share, for example an enum that a column and a response field use.
_SHARED = {
    "router": "Move what both need into service.py.",
    "repository": "Move what both need into models.py or schemas.py, or into a file of its own on their layer.",
    "models": (
        "Move an enum or a value that both use one layer down: into contract.py if other modules use it, otherwise "
        'into a file of its own, as in helpers={"kinds": "contract"} in module.py.'
    ),
    "settings": "Define the value where it is used, or pass the setting in from the layer above.",
}
_DOWN = "Move the code to the layer that it belongs to, or pass in what it needs from above."


def between(layers: Layers, importer: str, imported: str) -> tuple[str, str] | None:
    """Return what is wrong with an import of the same or a higher layer of one module, and what to do instead.

    Return None for names that are not on two layers of one module.
    """
    ours, theirs = part_of(importer), part_of(imported)
    layer, other = (next((names for names in layers if part in names), ()) for part in (ours, theirs))
    if module_of(importer) != module_of(imported) or not layer or not other:
        return None
    if layer == other:
        return f"{_files(layer)} are on one layer and do not import each other", _SHARED.get(layer[0], _DOWN)
    verb = "is" if len(layer) == 1 else "are"
    why = f"{_files(layer)} {verb} below {_files(other)}, and a layer imports only those below it"
    if ours == "contract" and "models" in other:
        return why, f"Move the enum or value into contract.py, and let {theirs}.py import it from there."
    return why, _SHARED["models"] if ours == "settings" and "models" in other else _DOWN


def _files(layer: Sequence[str]) -> str:
    names = [f"{name}.py" for name in layer]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check(project: Project) -> Iterator[Finding]:
    """Check the rules layers and libraries where import-linter cannot."""
    yield from _engines(project)
    ranks = {name: rank for rank, names in enumerate(project.layers) for name in names}
    for module in project.modules.values():
        yield from _helpers(project, module, ranks)
        for source in module.sources:
            yield from _imports(project, module, source, ranks)


def _engines(project: Project) -> Iterator[Finding]:
    for _, source in project.of_modules():
        used = [(found.name, found.line) for found in source.imports]
        used += [(source.named(call.func) or "", call.lineno) for call in source.calls]
        for name, line in used:
            if name.rpartition(".")[2] in _MAKE_ENGINE and name.startswith("sqlalchemy"):
                why = f"{name} makes connections outside the kernel's pools, without their limits and timeouts."
                instead = "Use a session: `Session` in a signature, `context.database` in a lifespan."
                yield Finding(source.path, line, "libraries", why, instead)


def _helpers(project: Project, module: Slice, ranks: Ranks) -> Iterator[Finding]:
    """Check that every file of a module is on a layer."""
    for name, layer in module.helpers.items():
        if layer not in ranks or not module.part(name) or name in ranks:
            why = f"helpers has {name!r}: {layer!r}, which puts no file of this module on a layer."
            instead = f"Name a file of {module.path}, and one of {', '.join(ranks)}."
            yield Finding(module.manifest, module.line, "layers", why, instead)
    for source in module.sources:
        part = part_of(source.dotted)
        if part and part not in ranks and part not in module.helpers and "problem" not in project.facts:
            why = f"No layer is known for {part}, so imports through it could reach any layer."
            instead = f'Name its layer in {module.manifest}, as in helpers={{"{part}": "service"}}.'
            yield Finding(source.path, 0, "layers", why, instead)


def _imports(project: Project, module: Slice, source: Source, ranks: Ranks) -> Iterator[Finding]:
    """Check the imports from and to files that importlinter.ini may not name: helpers, and files of extensions."""
    part, others = part_of(source.dotted), {*module.helpers, *project.extension_files}
    layer = module.helpers.get(part, part)
    if layer not in ranks:
        return
    foreign = _FOREIGN.get("router" if ranks[layer] == ranks["router"] else layer, ())
    for found in source.imports:
        other = part_of(found.name)
        if module_of(found.name) == module.name and others & {part, other}:
            if wrong := _wrong_layer(project, module, source.dotted, found.name, ranks):
                yield Finding(source.path, found.line, *wrong)
        elif (part in others or found.name.startswith("kernel.")) and f"{found.name}.".startswith(foreign):
            why = f"{part} is on the layer {layer} and imports {found.name}, which belongs on another layer."
            yield Finding(source.path, found.line, "libraries", why, "Move the code to the layer that it belongs to.")


def _wrong_layer(
    project: Project, module: Slice, importer: str, imported: str, ranks: Ranks
) -> tuple[str, str, str] | None:
    """Return the rule that an import inside a module breaks, why, and what to do instead."""
    part, other = part_of(importer), part_of(imported)
    layer, other_layer = (module.helpers.get(one, one) for one in (part, other))
    rank, other_rank = ranks[layer], ranks.get(other_layer, len(ranks))
    if part != other and not module.helpers.keys() & {part, other} and other_rank <= rank:
        said = between(project.layers, importer, imported)
        return said and ("layers", f"{importer} imports {imported}: {said[0]}.", said[1])
    if other_rank < rank:
        return "layers", f"{part} is on the layer {layer} and imports {other}, which is on {other_layer} above.", _DOWN
    if rank == ranks["router"] and other_layer == "models":
        why = f"{part} is on the layer {layer} and imports {other}, but only repositories use tables."
        return "libraries", why, "Add a method to repository.py and call it."
    return None


_MAKE_ENGINE = frozenset({"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"})
# By layer, the packages that do not belong on it.
_FOREIGN = {
    "router": ("sqlalchemy.",),
    "repository": ("fastapi.", "starlette.", "kernel.web."),
    "models": ("fastapi.", "starlette.", "kernel.web."),
    "contract": ("fastapi.", "starlette.", "sqlalchemy."),
}
