"""Layers: what is wrong with an import between two of them, and what import-linter does not know of them."""

from collections.abc import Iterator, Sequence

from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import LAYERS, RANKS, Project, Slice, module_of, part_of
from kernel.ext.boundaries.sources import Source

# Where files of one layer put what they share. An enum of a column and of a field of an answer is the usual case.
_SHARED = {
    "router": "Move what both need into service.py.",
    "repository": "Move what both need into models.py or schemas.py, or into a file of its own on their layer.",
    "models": (
        "Move an enum or a value that both use one layer down: into contract.py if other modules use it, otherwise "
        'into a file of its own, as in helpers={"kinds": "contract"} in module.py.'
    ),
    "settings": "Define the value where it is used, or pass the setting in from the layer above.",
}
_DOWN = "Move the code to the layer whose job it is, or pass in what it needs from above."


def between(importer: str, imported: str) -> tuple[str, str] | None:
    """Return what is wrong with an import that does not lead down inside a module, and what to do instead.

    None for names that are not on two layers of one module.
    """
    ours, theirs = part_of(importer), part_of(imported)
    if module_of(importer) != module_of(imported) or ours not in RANKS or theirs not in RANKS:
        return None
    layer, other = (LAYERS[RANKS[one]] for one in (ours, theirs))
    if layer == other:
        return f"{_files(layer)} are one layer, and do not import each other", _SHARED.get(layer[0], _DOWN)
    verb = "is" if len(layer) == 1 else "are"
    why = f"{_files(layer)} {verb} below {_files(other)}, and imports lead down only"
    if ours == "contract" and other == LAYERS[RANKS["models"]]:
        return why, f"Move the enum or value into contract.py, and let {theirs}.py import it from there."
    return why, _SHARED["models"] if ours == "settings" and other == LAYERS[RANKS["models"]] else _DOWN


def _files(layer: Sequence[str]) -> str:
    names = [f"{name}.py" for name in layer]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check(project: Project) -> Iterator[Finding]:
    """The rules layers and libraries, where import-linter does not know."""
    yield from _engines(project)
    yield from _layers(project)


def _engines(project: Project) -> Iterator[Finding]:
    for _, source in project.of_modules():
        used = [(found.name, found.line) for found in source.imports]
        used += [(source.named(call.func) or "", call.lineno) for call in source.calls]
        for name, line in used:
            if name.rpartition(".")[2] in _MAKE_ENGINE and name.startswith("sqlalchemy"):
                why = f"{name} makes a connection beside the kernel's pools, without their limits and timeouts."
                instead = "Take a session: `Session` in a signature, `context.database` in a lifespan."
                yield Finding(source.path, line, "libraries", why, instead)


_MAKE_ENGINE = frozenset({"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"})
# Frameworks that have no place on a layer, for files with names that importlinter.ini cannot know.
_FOREIGN = {
    "router": ("sqlalchemy",),
    "handlers": ("sqlalchemy",),
    "commands": ("sqlalchemy",),
    "repository": ("fastapi", "starlette", "kernel.web"),
    "models": ("fastapi", "starlette", "kernel.web"),
    "contract": ("fastapi", "starlette", "sqlalchemy"),
}


def _layers(project: Project) -> Iterator[Finding]:
    for module in project.modules.values():
        for name, layer in module.helpers.items():
            if layer not in RANKS or not module.part(name) or name in RANKS:
                why = f"helpers has {name!r}: {layer!r}, which places no file of this module on a layer."
                instead = f"Name a file of {module.path}, and one of {', '.join(RANKS)}."
                yield Finding(module.manifest, module.line, "layers", why, instead)
        for source in module.sources:
            part = part_of(source.dotted)
            if part in RANKS or not part:
                continue
            if part not in module.helpers:
                why = (
                    f"The manifest does not say on which layer {part} is, so it could carry an import past all of them."
                )
                instead = f'Name its layer in {module.manifest}, as in helpers={{"{part}": "service"}}.'
                yield Finding(source.path, 0, "layers", why, instead)
        for source in module.sources:
            yield from _upward(module, source)


def _upward(module: Slice, source: Source) -> Iterator[Finding]:
    """Imports from or to a helper that lead up; between the layers' own files, import-linter says so."""
    part = part_of(source.dotted)
    layer = module.helpers.get(part, part)
    for found in source.imports:
        other = part_of(found.name)
        if layer not in RANKS:
            continue
        if module_of(found.name) == module.name and (part in module.helpers or other in module.helpers):
            other_layer = module.helpers.get(other, other)
            if RANKS.get(other_layer, len(LAYERS)) < RANKS[layer]:
                why = f"{part} is on the layer of {layer} and imports {other}, which is above it ({other_layer})."
                yield Finding(source.path, found.line, "layers", why, _DOWN)
            elif RANKS[layer] == RANKS["router"] and other_layer == "models":
                why = f"{part} is on the layer of {layer} and imports {other}, but only repositories use tables."
                yield Finding(source.path, found.line, "libraries", why, "Add a method to repository.py and call it.")
        elif (part in module.helpers or found.name.startswith("kernel.")) and f"{found.name}.".startswith(
            tuple(f"{name}." for name in _FOREIGN.get(layer, ()))
        ):
            why = f"{part} is on the layer {layer} and imports {found.name}, which belongs on another layer."
            instead = "Move the code to the layer whose job it is."
            yield Finding(source.path, found.line, "libraries", why, instead)
