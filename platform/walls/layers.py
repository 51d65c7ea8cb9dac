"""Layers where import-linter does not know: files with other names, engines, and what the kernel names."""

import ast
from collections.abc import Iterator

from walls.findings import Finding
from walls.project import LAYERS, RANKS, Project, Slice, module_of, part_of
from walls.sources import Source


def check(project: Project) -> Iterator[Finding]:
    """The rules layers and kernel-clean, where import-linter does not know."""
    yield from _kernel_clean(project)
    yield from _layers(project)


def _kernel_clean(project: Project) -> Iterator[Finding]:
    for source in project.kernel:
        for node in source.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = node.value.split(".")
                if parts[0] == "modules" and len(parts) > 1 and parts[1] in project.modules:
                    why = f"The kernel names the module {parts[1]}, but it also serves an application without it."
                    instead = "Let the module hand itself over, through its manifest (module.py)."
                    yield Finding(source.path, node.lineno, "kernel-clean", why, instead)
    for _, source in project.of_modules():
        used = [(found.name, found.line) for found in source.imports]
        used += [(source.named(call.func) or "", call.lineno) for call in source.calls]
        for name, line in used:
            if name.rpartition(".")[2] in _ENGINES and name.startswith("sqlalchemy"):
                why = f"{name} makes a connection beside the kernel's pools, without their limits and timeouts."
                instead = "Take a session: `Session` in a signature, `context.database` in a lifespan."
                yield Finding(source.path, line, "kernel-clean", why, instead)


_ENGINES = frozenset({"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"})
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
                why = f"Nothing says on which layer {part} stands, so it could carry an import past all of them."
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
                why = f"{part} stands with {layer} and imports {other}, which stands above it, with {other_layer}."
                instead = "Move the code to the layer whose job it is, or pass in what it needs from above."
                yield Finding(source.path, found.line, "layers", why, instead)
            elif RANKS[layer] == RANKS["router"] and other_layer == "models":
                why = f"{part} stands with {layer} and imports {other}, but only repositories know tables."
                yield Finding(
                    source.path, found.line, "kernel-clean", why, "Add a method to repository.py and call it."
                )
        elif part in module.helpers and f"{found.name}.".startswith(
            tuple(f"{name}." for name in _FOREIGN.get(layer, ()))
        ):
            why = f"{part} stands with {layer} and imports {found.name}, which belongs elsewhere."
            instead = "Move the code to the layer whose job it is."
            yield Finding(source.path, found.line, "kernel-clean", why, instead)
