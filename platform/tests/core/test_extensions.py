"""The interface for extensions: which are in use, what stops the start, and the order of the hooks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.application import create_app
from kernel.errors import ProjectError
from kernel.extension import installed, load_extensions
from kernel.settings import CORE_GROUPS
from kernel.testing import project_for
from tests.core.installing import KERNEL, SAMPLES, declare, run_with
from tests.core.project import MANIFEST, imported_alone, write_project

LACKS_ITS_EXTRA = {"sample": "sample_extensions.lacks_its_extra:LacksItsExtra"}
NEEDS_A_PACKAGE = {"sample": "sample_extensions.requiring:NeedsAPackage"}
REQUIRES_ABSENT = {"sample": "sample_extensions.requiring:RequiresAbsent"}
CIRCLE = {"hen": "sample_extensions.requiring:Hen", "egg": "sample_extensions.requiring:Egg"}
Install = Callable[[dict[str, str]], None]
RECORDING = {"b_first": "sample_extensions.recording:First"}
BOTH_RECORDING = {"a_second": "sample_extensions.recording:Second", **RECORDING}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", {"shop/module.py": MANIFEST})


def configure(project: Path, **options: list[str]) -> None:
    lines = [f"{name.replace('_', '-')} = {value!r}\n" for name, value in options.items()]
    (project / "pyproject.toml").write_text(f"[tool.kernel]\n{''.join(lines)}")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Add a distribution with these entry points to this process."""

    def add(points: dict[str, str]) -> None:
        monkeypatch.syspath_prepend(SAMPLES)
        monkeypatch.syspath_prepend(declare(tmp_path / "packages", points))
        installed.cache_clear()

    yield add
    installed.cache_clear()


def refusal(project: Path, **variables: str) -> str:
    """Return the error that stops the start."""
    with imported_alone(), pytest.raises(ProjectError) as caught:
        project_for(project, {"DATABASE_URL": "sqlite:///data", **variables})
    return str(caught.value)


# Which extensions are in use


def test_a_listed_extension_that_is_absent_stops_the_start(project: Path) -> None:
    configure(project, extensions=["audit_log"])
    message = refusal(project)
    assert "lists extensions that cannot be used" in message
    assert "audit_log: it is not installed" in message


def test_a_listed_extension_that_is_disabled_stops_the_start(project: Path, install: Install) -> None:
    install(RECORDING)
    configure(project, extensions=["b_first"], without_extensions=["b_first"])
    assert "b_first: it is listed in without-extensions" in refusal(project)


@pytest.mark.parametrize("points", [LACKS_ITS_EXTRA, NEEDS_A_PACKAGE], ids=["at import", "when used"])
def test_a_listed_extension_that_lacks_its_extra_stops_the_start(
    project: Path, install: Install, points: dict[str, str]
) -> None:
    install(points)
    configure(project, extensions=["sample"])
    message = refusal(project)
    assert "sample: it needs a_package_that_is_not_installed: install sample-extensions[sample]" in message


def test_an_extension_that_lacks_its_extra_and_is_not_listed_is_not_in_use(project: Path, install: Install) -> None:
    install(LACKS_ITS_EXTRA)
    assert "sample" not in {kind.name for kind in load_extensions(project)}


def test_an_entry_point_to_a_missing_module_stops_the_start_with_a_remedy(project: Path, install: Install) -> None:
    install({"gone": "sample_extensions.gone.extension:Gone"})
    message = refusal(project)
    assert "gone is declared by sample-extensions, but sample_extensions.gone.extension does not exist" in message
    assert "Install sample-extensions again, or remove the entry point" in message


def test_an_entry_point_that_names_no_extension_stops_the_start(project: Path, install: Install) -> None:
    install({"sample": "sample_extensions.requiring:NotAnExtension"})
    message = refusal(project)
    assert "sample_extensions.requiring:NotAnExtension, which is no Extension" in message


def test_an_extension_that_requires_an_absent_one_stops_the_start_with_a_remedy(
    project: Path, install: Install
) -> None:
    install(REQUIRES_ABSENT)
    message = refusal(project)
    assert "sample requires absent, which cannot be used: it is not installed" in message
    assert "Name sample in without-extensions" in message


def test_the_remedy_for_an_absent_requirement_works(project: Path, install: Install) -> None:
    configure(project, without_extensions=["sample"])
    install(REQUIRES_ABSENT)
    assert "sample" not in {kind.name for kind in load_extensions(project)}


def test_extensions_that_require_each_other_stop_the_start(project: Path, install: Install) -> None:
    install(CIRCLE)
    message = refusal(project)
    assert "Extensions require each other: " in message
    assert "hen -> egg" in message


# Parts that would silently have no effect


def test_a_module_that_imports_an_extension_that_is_off_stops_the_start(project: Path) -> None:
    configure(project, without_extensions=["cache"])
    (project / "modules" / "shop" / "service.py").write_text("from kernel.ext.cache import cached\n")
    message = refusal(project)
    assert "modules/shop/service.py imports kernel.ext.cache, but the extension cache is not in use" in message
    assert "remove it from without-extensions" in message


def test_a_setting_of_an_extension_that_is_off_stops_the_start(project: Path) -> None:
    configure(project, without_extensions=["rate_limit"])
    message = refusal(project, RATE_LIMIT_OVERALL="10/second")
    assert "RATE_LIMIT_OVERALL" in message
    assert "is a setting of the extension rate_limit, which is not in use" in message


def test_the_distribution_names_the_variables_of_each_extension() -> None:
    of_core = {group.variable(field) for group in CORE_GROUPS.values() for field in group.model_fields}
    for kind in installed().extensions.values():
        starts = tuple(start for start, name in installed().variables.items() if name == kind.name)
        for group in kind.settings if kind.__module__.startswith("kernel.ext.") else ():
            others = {group.variable(field) for field in group.model_fields} - of_core
            assert not [name for name in others if not name.startswith(starts)]


# Hooks


async def test_each_hook_is_called_once_after_those_of_required_extensions(
    tmp_path: Path, project: Path, install: Install
) -> None:
    install(BOTH_RECORDING)
    with imported_alone():
        found = project_for(project, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"})
        app = create_app(*found)
        async with app.router.lifespan_context(app):
            pass
    each = (
        "locate",
        "check_module shop",
        "check_settings",
        "configure",
        "configure_module shop",
        "assemble",
        "check_start",
        "lifespan begins",
        "serving begins",
    )
    inwards = [f"{name}.{hook}" for hook in each for name in ("b_first", "a_second")]
    outwards = [f"{name}.{hook}" for hook in ("serving ends", "lifespan ends") for name in ("a_second", "b_first")]
    [calls] = [kind.calls for kind in found.extensions if kind.name == "b_first"]  # type: ignore[attr-defined]
    assert calls == inwards + outwards


def test_extensions_are_loaded_in_the_order_of_their_requirements(project: Path, install: Install) -> None:
    install(BOTH_RECORDING)
    names = [kind.name for kind in load_extensions(project)]
    assert names.index("b_first") < names.index("a_second")


@pytest.mark.integration
def test_a_command_that_cannot_start_prints_the_reason_without_a_traceback(tmp_path: Path, project: Path) -> None:
    done = run_with(declare(tmp_path / "packages", REQUIRES_ABSENT), project, KERNEL, "migrate")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The extension sample requires absent")
    assert "Traceback" not in done.stderr
