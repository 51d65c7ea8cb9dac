"""The README shows the example modules as they are; without them, a base remains that passes its checks."""

import re
from pathlib import Path

import pytest

from tests.test_readme import BIN, copy_of, run

pytestmark = pytest.mark.slow

# The remaining tests that examine the modules of this repository. The others create projects of their own.
_LOOK_AT_THE_REPOSITORY = (
    *(f"platform/tests/core/test_{name}.py" for name in ("settings", "discovery", "application", "database")),
    "platform/tests/fast/test_endpoint.py",
    "platform/tests/inspection/test_command.py::test_settings_are_shown_with_their_origin_and_without_secrets",
    "platform/tests/core/test_size.py",
    "tests/deploy",
    "tests/modules",
    "tests/test_image.py",
    "tests/test_openapi_examples.py",
    "tests/test_readme.py",
)
# They install a whole environment or follow the README, which takes minutes and does not depend on the examples.
_SLOW = "not test_what_the_build_installs and not test_a_module_made_by_following"


@pytest.fixture(scope="module")
def remaining(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of the repository after the removal that the README describes."""
    copy = copy_of(root, tmp_path_factory.mktemp("remaining") / "copy")
    [command] = re.findall(r"`(bin/without-examples)`", (root / "README.md").read_text())
    run(copy, BIN / "python", command)
    return copy


@pytest.mark.timeout(240)
def test_without_the_examples_the_checks_pass(remaining: Path) -> None:
    run(remaining, BIN / "ruff", "check", ".")
    run(remaining, BIN / "ruff", "format", "--check", ".")
    run(remaining, BIN / "kernel", "check")
    run(remaining, BIN / "mypy", "--cache-dir", remaining / ".mypy_cache")


@pytest.mark.timeout(240)
def test_without_the_examples_every_test_file_can_be_collected(remaining: Path) -> None:
    collected = run(remaining, BIN / "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "--collect-only")
    assert re.search(r"\d+ tests collected", collected)
    assert "sweep" not in (remaining / "deploy" / "kubernetes" / "kustomization.yaml").read_text()


@pytest.mark.timeout(300)
def test_without_the_examples_the_tests_of_the_repository_pass(remaining: Path) -> None:
    run(remaining, BIN / "kernel", "migrate")
    assert "platform-team" in run(remaining, BIN / "kernel", "modules")
    passed = run(
        *(remaining, BIN / "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-k", _SLOW), *_LOOK_AT_THE_REPOSITORY
    )
    assert re.search(r"\d+ passed", passed)


def test_the_code_in_the_readme_is_that_of_the_modules(root: Path) -> None:
    readme = (root / "README.md").read_text()
    chapter = readme.partition("## Call another module, or send it a message")[2].partition("\n## ")[0]
    shown = re.findall(r"```python\n# (modules/\S+)\n(.*?)```", chapter, re.DOTALL)
    assert len(shown) == 4
    for path, content in shown:
        for part in content.split("...\n"):
            assert part in (root / path).read_text(), f"{path} has no longer: {part}"
