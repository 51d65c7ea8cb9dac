"""Findings about imports of the same or a higher layer."""

import pytest

from kernel.ext.boundaries.layers import between
from kernel.ext.boundaries.project import layers_with

LAYERS = layers_with({"handlers": "router"})

ONE_LAYER_DOWN = (
    "Move an enum or a value that both use one layer down: into contract.py if other modules use it, otherwise "
    'into a file of its own, as in helpers={"kinds": "contract"} in module.py.'
)


@pytest.mark.parametrize(
    ("importer", "imported", "why", "instead"),
    [
        (
            "models",
            "schemas",
            "models.py and schemas.py are on one layer and do not import each other",
            ONE_LAYER_DOWN,
        ),
        (
            "contract",
            "schemas",
            "settings.py and contract.py are below models.py and schemas.py, and a layer imports only those below it",
            "Move the enum or value into contract.py, and let schemas.py import it from there.",
        ),
        (
            "handlers",
            "router",
            "router.py, commands.py and handlers.py are on one layer and do not import each other",
            "Move what both need into service.py.",
        ),
        (
            "repository",
            "service",
            "repository.py and storage.py are below service.py, and a layer imports only those below it",
            "Move the code to the layer that it belongs to, or pass in what it needs from above.",
        ),
        (
            "service",
            "router",
            "service.py is below router.py, commands.py and handlers.py, and a layer imports only those below it",
            "Move the code to the layer that it belongs to, or pass in what it needs from above.",
        ),
    ],
)
def test_a_finding_names_the_layers_and_where_the_shared_part_belongs(
    importer: str, imported: str, why: str, instead: str
) -> None:
    assert between(LAYERS, f"modules.left.{importer}", f"modules.left.{imported}.Kind") == (why, instead)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if len(layer) > 1])
def test_every_layer_of_several_files_has_a_place_for_their_shared_part(layer: tuple[str, ...]) -> None:
    found = between(LAYERS, f"modules.left.{layer[0]}", f"modules.left.{layer[1]}")
    assert found is not None
    assert "from above." not in found[1]


@pytest.mark.parametrize(
    "names", [("modules.left.words", "modules.left.router"), ("modules.a.models", "modules.b.router")]
)
def test_other_imports_are_not_between_layers(names: tuple[str, str]) -> None:
    assert between(LAYERS, *names) is None
