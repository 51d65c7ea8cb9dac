"""The files that a contributor meets first are consistent with the repository."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.core.commands import invoke

BIN = Path(sys.executable).parent
# Pages that name files and tests of this repository.
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md")
IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
PATH = re.compile(
    r"(?:platform|kernel|ext|modules|tests|docs|migrations|bench|deploy|env_files|bin|requirements)/[\w.*/-]*"
    r"|[\w*/-]+/[\w*-]+\.py"
)
# Files that a reader of the page creates, and files that a command writes.
NOT_IN_THE_REPOSITORY = ("modules/notes/", "tests/modules/notes/", "bench/results/")
with_examples = pytest.mark.skipif(
    not (Path(__file__).parents[1] / "bin" / "without-examples").exists(),
    reason="The pages name files of the example modules, which have been removed.",
)


def draft_of_the_changelog(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "towncrier", "build", "--draft"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def nav_pages(entry: object) -> set[str]:
    """Return the pages below this entry of the navigation."""
    match entry:
        case str():
            return {entry}
        case dict():
            return nav_pages(list(entry.values()))
        case list():
            return {page for one in entry for page in nav_pages(one)}
    raise TypeError(entry)


@pytest.mark.integration
def test_the_changelog_contains_every_fragment(root: Path) -> None:
    draft = draft_of_the_changelog(root)
    assert draft.returncode == 0, draft.stderr
    words = draft.stdout.split()
    for fragment in (root / "changelog.d").glob("*.*.md"):
        first_words = fragment.read_text().split()[:8]
        starts = (words[at : at + len(first_words)] for at in range(len(words)))
        assert first_words in starts, fragment.name


@pytest.mark.integration
@pytest.mark.parametrize("name", ["+topic.improved.md", "topic.fixed.md", "+topic.md"])
def test_a_fragment_with_an_unknown_type_or_without_a_plus_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    (tmp_path / "changelog.d").mkdir()
    assert draft_of_the_changelog(tmp_path).returncode == 0
    (tmp_path / "changelog.d" / name).write_text("Something is better.\n")
    assert draft_of_the_changelog(tmp_path).returncode == 1


def test_the_hooks_before_a_commit_are_the_steps_of_make_check(root: Path) -> None:
    [local] = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    entries = [hook["entry"] for hook in local["hooks"]]
    for entry in entries:
        program = shlex.split(entry)[0]
        assert program.startswith(".venv/bin/")
        assert (BIN / Path(program).name).exists(), entry
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    steps = re.findall(r"\$\(BIN\)/((?:[^\s$]+ ?)+)", recipe[1])
    assert len(steps) >= 5
    assert {f".venv/bin/{step.strip()}" for step in steps} == {*entries} - {".venv/bin/towncrier build --draft"}


def test_the_launch_configurations_start_commands_that_exist(root: Path) -> None:
    launch = json.loads((root / ".vscode" / "launch.json").read_text())
    [serve] = [one for one in launch["configurations"] if one["name"] == "Serve"]
    assert serve["program"] == "${workspaceFolder}/.venv/bin/kernel"
    help_of = invoke(root, *serve["args"], "--help")
    assert help_of.returncode == 0, help_of.stderr


def test_the_dev_container_has_the_recommended_extensions(root: Path) -> None:
    container = json.loads((root / ".devcontainer" / "devcontainer.json").read_text())
    recommended = json.loads((root / ".vscode" / "extensions.json").read_text())["recommendations"]
    assert container["customizations"]["vscode"]["extensions"] == recommended


@pytest.mark.parametrize("folder", [".", "platform"])
def test_the_distributions_name_their_licence_and_contain_it(root: Path, folder: str) -> None:
    project = tomllib.loads((root / folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (root / folder / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert text == (root / "LICENSE").read_text()


def test_every_page_of_the_documentation_is_in_the_navigation(root: Path) -> None:
    docs = root / "docs"
    nav = tomllib.loads((root / "zensical.toml").read_text())["project"]["nav"]
    assert nav_pages(nav) == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}


def test_every_file_that_a_page_links_is_part_of_the_documentation(root: Path) -> None:
    docs = root / "docs"
    for page in docs.rglob("*.md"):
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                target = (page.parent / link).resolve()
                assert target.is_file(), f"{page.name} links {link}, which does not exist"
                assert target.is_relative_to(docs), f"{page.name} links {link}, which the site does not contain"


def code_in_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each page and each piece of code in backticks on it, outside of code blocks."""
    for pattern in PAGES:
        for page in root.glob(pattern):
            prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
            for code in IN_BACKTICKS.findall(prose):
                yield str(page.relative_to(root)), code


def alternatives(path: str) -> list[str]:
    """Return the paths for `a/{b,c}.py`: one for each name in braces."""
    if not (braces := re.search(r"\{([^}]+)\}", path)):
        return [path]
    return [one for name in braces[1].split(",") for one in alternatives(path.replace(braces[0], name, 1))]


@with_examples
def test_every_path_on_a_page_exists(root: Path) -> None:
    bases = (root, root / "platform", root / "platform" / "kernel")
    missing = [
        f"{page}: {path}"
        for page, code in code_in_pages(root)
        for path in alternatives(re.sub(r"<\w+>|\{\w+\}", "*", code))
        if PATH.fullmatch(path) and not path.startswith(NOT_IN_THE_REPOSITORY)
        if not any(any(base.glob(path)) for base in bases)
    ]
    assert not missing, "\n".join(missing)


@with_examples
def test_every_test_that_a_page_names_exists(root: Path) -> None:
    files = [file for folder in ("tests", "platform/tests") for file in (root / folder).rglob("test_*.py")]
    known = {file.stem for file in files} | {
        name for file in files for name in re.findall(r"def (\w+)", file.read_text())
    }
    named = [(page, code) for page, code in code_in_pages(root) if re.fullmatch(r"test_\w+(\.py|…)?", code)]
    assert named
    for page, code in named:
        name = code.removesuffix(".py")
        found = name in known or (name.endswith("…") and any(one.startswith(name[:-1]) for one in known))
        assert found, f"{page} names the test {code}, which does not exist"
