"""Discovery reports each problem with its file, the reason and the remedy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.modules.discovery import DiscoveredModule, DiscoveryError, discover
from tests.core.project import MANIFEST, imported_alone, write_project

ROUTER = "from fastapi import APIRouter\n\nrouter = APIRouter()\n"


def manifest(**options: object) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in ({"owner": "team"} | options).items())
    return f"from kernel import Module\n\nmodule = Module({arguments})\n"


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with imported_alone():
        yield


def found(root: Path, files: dict[str, str], enabled: list[str] | None = None) -> tuple[DiscoveredModule, ...]:
    return discover(write_project(root, files), enabled)


def fault(root: Path, files: dict[str, str], enabled: list[str] | None = None) -> str:
    with pytest.raises(DiscoveryError) as caught:
        found(root, files, enabled)
    return str(caught.value)


def test_modules_come_after_those_they_depend_on(tmp_path: Path) -> None:
    files = {
        "a/module.py": manifest(depends_on={"c"}),
        "b/module.py": manifest(depends_on={"a"}),
        "c/module.py": manifest(),
    }
    assert [module.name for module in found(tmp_path, files)] == ["c", "a", "b"]


def test_only_the_contract_of_a_module_elsewhere_is_needed(tmp_path: Path) -> None:
    """A service keeps only the contract of another module."""
    write_project(tmp_path, {"a/module.py": manifest(depends_on={"b"}), "b/contract.py": "raise OSError\n"})
    (tmp_path / "modules/b/module.py").unlink()
    for enabled in (None, {"a"}, {"a", "b"}):
        assert [module.name for module in discover(tmp_path, enabled, {"b"})] == ["a"]


def test_any_file_of_a_module_may_be_a_folder(tmp_path: Path) -> None:
    [module] = found(tmp_path, {"shop/router/__init__.py": ROUTER, "shop/module.py": MANIFEST})
    assert module.router is not None


def test_only_enabled_modules_are_found(tmp_path: Path) -> None:
    files = {"a/module.py": MANIFEST, "b/module.py": "raise RuntimeError('not to be imported')"}
    assert [module.name for module in found(tmp_path, files, ["a"])] == ["a"]


@pytest.mark.parametrize(
    ("router", "prefix", "tags"),
    [
        (ROUTER, "/api/v1/shop", ("shop",)),
        (ROUTER.replace("()", '(prefix="/own", tags=["t"])'), "/own", ("t",)),
        (ROUTER + 'ROUTER_CONFIG = {"prefix": "/configured", "tags": ["c"]}\n', "/configured", ("c",)),
        (
            ROUTER.replace("()", '(prefix="/own")') + 'ROUTER_CONFIG = {"prefix": "/configured", "tags": ["c"]}\n',
            "/own",
            ("c",),
        ),
    ],
)
def test_the_prefix_comes_from_the_router_then_the_config_then_the_name(
    tmp_path: Path, router: str, prefix: str, tags: tuple[str, ...]
) -> None:
    [module] = found(tmp_path, {"shop/router.py": router})
    assert (module.prefix, module.tags) == (prefix, tags)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "modules" / "billing").mkdir(parents=True)
    message = fault(tmp_path, {})
    assert "modules/billing has no module.py" in message
    assert 'Module(owner="your-team")' in message


def test_a_folder_that_the_boundary_checks_would_not_see(tmp_path: Path) -> None:
    write_project(tmp_path, {"a/module.py": MANIFEST})
    (tmp_path / "modules" / "a" / "__init__.py").unlink()
    assert "modules/a has no __init__.py" in fault(tmp_path, {})


@pytest.mark.parametrize("part", ["module", "models", "settings", "router"])
def test_a_file_that_cannot_be_imported(tmp_path: Path, part: str) -> None:
    message = fault(tmp_path, {f"a/{part}.py": "import nowhere_to_be_found"})
    assert f"modules/a/{part}.py cannot be imported: ModuleNotFoundError" in message
    assert f"a/{part}.py:1" in message


def test_an_invalid_manifest(tmp_path: Path) -> None:
    assert "must define `module = Module(" in fault(tmp_path, {"a/module.py": "module = 1"})


def test_an_invalid_router(tmp_path: Path) -> None:
    assert "its `router` is of type int" in fault(tmp_path, {"a/router.py": "router = 1"})


def test_an_invalid_prefix(tmp_path: Path) -> None:
    assert "must begin with" in fault(tmp_path, {"a/router.py": ROUTER + 'ROUTER_CONFIG = {"prefix": "shop/"}'})


def test_a_router_config_with_an_unknown_key(tmp_path: Path) -> None:
    assert "ROUTER_CONFIG" in fault(tmp_path, {"a/router.py": ROUTER + 'ROUTER_CONFIG = {"prefx": "/shop"}'})


def test_two_modules_with_one_prefix(tmp_path: Path) -> None:
    router = ROUTER.replace("()", '(prefix="/same")')
    message = fault(tmp_path, {"a/router.py": router, "b/router.py": router})
    assert "modules/a and modules/b have the same prefix, /same" in message


def test_a_cycle_of_dependencies(tmp_path: Path) -> None:
    files = {"a/module.py": manifest(depends_on={"b"}), "b/module.py": manifest(depends_on={"a"})}
    message = fault(tmp_path, files)
    assert "depends_on has a cycle" in message
    assert "a -> b" in message or "b -> a" in message


def test_a_dependency_that_does_not_exist(tmp_path: Path) -> None:
    assert "there is no such module" in fault(tmp_path, {"a/module.py": manifest(depends_on={"ghost"})})


def test_a_dependency_that_is_not_enabled(tmp_path: Path) -> None:
    files = {"a/module.py": manifest(depends_on={"b"}), "b/module.py": MANIFEST}
    assert "b, which is not in ENABLED_MODULES: add it" in fault(tmp_path, files, ["a"])


def test_an_enabled_module_that_does_not_exist(tmp_path: Path) -> None:
    assert "Did you mean events?" in fault(tmp_path, {"events/module.py": MANIFEST}, ["event"])


def test_a_name_that_settings_of_the_kernel_use(tmp_path: Path) -> None:
    assert "kernel's settings use the name database" in fault(tmp_path, {"database/module.py": MANIFEST})


def test_an_invalid_name(tmp_path: Path) -> None:
    assert "e.g. my_shop" in fault(tmp_path, {"My-Shop/module.py": MANIFEST})


def test_models_without_a_base_of_their_own(tmp_path: Path) -> None:
    assert "one declarative base of its own; it defines 0" in fault(tmp_path, {"a/models.py": ""})


def test_settings_without_a_class(tmp_path: Path) -> None:
    assert "one class derived from ModuleSettings" in fault(tmp_path, {"a/settings.py": ""})


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    message = fault(tmp_path, {"a/router.py": "router = 1", "b/module.py": "module = 1", "c/models.py": ""})
    assert "3 problem(s)" in message


def test_a_project_without_modules(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="is missing"):
        discover(tmp_path)
