"""The tests that `kernel test` selects for a change, in a real git repository."""

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from kernel.ext.boundaries.commands import PytestCommand, run
from kernel.ext.boundaries.git import Git, GitError
from kernel.ext.boundaries.scope import ScopeError, Selection, select

pytestmark = pytest.mark.integration

CONTRACT = '''"""The contract."""

from kernel import Contract
from modules.images.units import Pixels


class Images(Contract):
    """About images."""

    async def get(self, image_id: int) -> Pixels | None:
        """The picture."""
        raise NotImplementedError
'''
FILES = {
    ".gitignore": "data/\n",
    "pyproject.toml": "[project]\nname = 'shop'\n",
    "README.md": "A shop.\n",
    "docs/guide.md": "A guide.\n",
    "platform/kernel/application.py": "",
    "modules/__init__.py": "",
    "modules/images/module.py": "from kernel import Module\n\nmodule = Module(owner='media')\n",
    "modules/images/contract.py": CONTRACT,
    "modules/images/units.py": "Pixels = int\n",
    "modules/images/router.py": "",
    "modules/events/module.py": "from kernel import Module\n\nmodule = Module(owner='dates', depends_on={'images'})\n",
    "modules/events/router.py": "",
    "modules/health/module.py": "from kernel import Module\n\nmodule = Module(owner='all')\n",
    "migrations/events/0001_first.py": "",
    "tests/conftest.py": "",
    "tests/boundaries/test_rules.py": "def test_rules() -> None: ...\n",
    "tests/modules/images/test_images.py": "def test_images() -> None: ...\n",
    "tests/modules/events/test_events.py": "def test_events() -> None: ...\n",
    "tests/modules/health/test_health.py": "def test_health() -> None: ...\n",
    "tests/kernel/test_app.py": "def test_app() -> None: ...\n",
}


def git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, message: str = "more") -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


def write(root: Path, path: str, text: str | None) -> None:
    """Write a file; without a text, delete it."""
    file = root / path
    if text is None:
        file.unlink()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture(autouse=True)
def _no_configuration_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the user's git configuration, and the repository of a hook that runs these tests."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a project with three modules, committed on main."""
    root = tmp_path / "shop"
    for path, text in FILES.items():
        write(root, path, text)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Test")
    git(root, "config", "user.email", "test@example.org")
    commit(root, "first")
    return root


def changed(root: Path, revision: str | None = None) -> Selection:
    return select(root, revision=revision, by_change=True)


def folders(selection: Selection) -> list[str]:
    assert selection.everything is None, selection.everything
    return [path.removeprefix("tests/").removeprefix("modules/") for path in selection.paths]


# Which files select what


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("modules/events/router.py", ["boundaries", "events"]),
        ("modules/events/new/deep.py", ["boundaries", "events"]),
        ("modules/events/notes.md", ["boundaries", "events"]),
        ("tests/modules/events/test_events.py", ["boundaries", "events"]),
        ("migrations/events/0002_second.py", ["boundaries", "events"]),
        ("modules/images/router.py", ["boundaries", "images"]),
        ("docs/guide.md", ["boundaries"]),
        ("README.md", ["boundaries"]),
        ("tests/boundaries/test_more.py", ["boundaries"]),
        ("data/events.db", ["boundaries"]),  # ignored by git
        ("modules/images/contract.lock.json", ["boundaries", "images"]),
        (".github/CODEOWNERS", ["boundaries"]),
        ("CODEOWNERS", ["boundaries"]),
        ("boundaries.ledger.json", ["boundaries"]),
    ],
)
def test_a_file_of_a_module_selects_the_module(shop: Path, path: str, selected: list[str]) -> None:
    write(shop, path, "# changed\n")
    assert folders(changed(shop)) == selected


@pytest.mark.parametrize(
    "path",
    [
        "platform/kernel/application.py",
        "platform/kernel/new.py",
        "pyproject.toml",
        "importlinter.ini",
        "requirements/dev.txt",
        "tests/conftest.py",
        "tests/modules/conftest.py",
        "tests/kernel/test_app.py",
        "modules/__init__.py",
        "migrations/shared.py",
        "Makefile",
    ],
)
def test_a_file_outside_the_modules_selects_everything(shop: Path, path: str) -> None:
    write(shop, path, "# changed\n")
    selection = changed(shop)
    assert selection.everything == f"{path} changed"
    assert f"everything  {path} changed" in list(selection.lines())


def test_without_a_change_only_the_boundary_checks_are_selected(shop: Path) -> None:
    selection = changed(shop)
    assert folders(selection) == ["boundaries"]
    head = git(shop, "rev-parse", "HEAD")
    assert list(selection.lines()) == [f"boundaries  always (compared with {head[:9]})"]


def test_deleted_and_renamed_files_count_for_their_old_and_new_place(shop: Path) -> None:
    write(shop, "modules/health/router.py", "A = 1\n" * 20)
    commit(shop)
    git(shop, "mv", "modules/health/router.py", "modules/events/words.py")
    assert folders(changed(shop)) == ["boundaries", "events", "health"]
    git(shop, "reset", "-q", "--hard")
    write(shop, "modules/health/router.py", None)
    assert folders(changed(shop)) == ["boundaries", "health"]


@pytest.mark.parametrize("is_staged", [True, False])
def test_staged_and_unstaged_changes_count(shop: Path, is_staged: bool) -> None:
    write(shop, "modules/events/router.py", "A = 1\n")
    write(shop, "modules/häuser/module.py", "")
    if is_staged:
        git(shop, "add", "-A")
    assert changed(shop).modules.keys() == {"events", "häuser"}


def test_a_module_without_tests_is_reported(shop: Path) -> None:
    write(shop, "modules/shop/module.py", FILES["modules/health/module.py"])
    selection = changed(shop)
    assert folders(selection) == ["boundaries"]
    assert "shop        modules/shop/module.py changed (but there is no tests/modules/shop)" in list(selection.lines())


# Helpers of tests

HELPER = "tests/modules/events/processes.py"


@pytest.mark.parametrize(
    ("importer", "text", "selected"),
    [
        ("tests/modules/images/test_more.py", "from tests.modules.events.processes import start\n", None),
        ("tests/modules/images/test_more.py", "from tests.modules.events import processes\n", None),
        ("tests/modules/images/test_more.py", "import tests.modules.events.processes as p\n", None),
        ("tests/modules/images/test_more.py", "from ..events.processes import start\n", None),
        ("tests/modules/images/test_more.py", "def f():\n    import tests.modules.events.processes\n", None),
        ("tests/modules/images/test_more.py", "COMMAND = ['-m', 'tests.modules.events.processes']\n", None),
        ("tests/kernel/test_app.py", "from tests.modules.events.processes import start\n", None),
        ("tests/modules/images/conftest.py", "from tests.modules.events.processes import start\n", "images"),
        ("tests/modules/images/conftest.py", "pytest_plugins = ['tests.modules.events.processes']\n", "images"),
    ],
)
def test_tests_that_import_a_changed_helper_run(shop: Path, importer: str, text: str, selected: str | None) -> None:
    write(shop, HELPER, "def start(): ...\n")
    write(shop, importer, text)
    commit(shop)
    write(shop, HELPER, "def start(): return 1\n")
    selection = changed(shop)
    assert folders(selection) == [
        "boundaries",
        "events",
        selected or importer.removeprefix("tests/modules/").removeprefix("tests/"),
    ]
    [reason] = selection.tests.values()
    assert reason == f"imports {HELPER}, which changed"
    assert any(line.endswith(reason) for line in selection.lines())


def test_tests_that_import_a_changed_helper_through_another_run(shop: Path) -> None:
    write(shop, HELPER, "def start(): ...\n")
    write(shop, "tests/faults/between.py", "from tests.modules.events.processes import start\n")
    write(shop, "tests/modules/images/test_more.py", "from tests.faults.between import start\n")
    commit(shop)
    write(shop, HELPER, None)
    assert folders(changed(shop)) == ["boundaries", "events", "images/test_more.py"]


def test_tests_that_import_another_helper_of_that_folder_do_not_run(shop: Path) -> None:
    write(shop, HELPER, "")
    write(shop, "tests/modules/events/process.py", "")
    write(shop, "tests/modules/images/test_more.py", "from tests.modules.events import process\n")
    commit(shop)
    write(shop, HELPER, "A = 1\n")
    assert folders(changed(shop)) == ["boundaries", "events"]


@pytest.mark.slow
def test_a_failure_of_a_test_that_imports_a_changed_helper_was_not_skipped(
    shop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("tests", "tests/modules", "tests/modules/events", "tests/modules/images", "tests/boundaries"):
        write(shop, f"{folder}/__init__.py", "")
    write(shop, HELPER, "")
    write(shop, "tests/modules/images/test_more.py", "import tests.modules.events.processes\ndef test_x(): 1 / 0\n")
    commit(shop)
    write(shop, HELPER, "A = 1\n")
    assert kernel_test(shop, whole=True) == 1
    assert "would have skipped" not in capfd.readouterr().out


# Contracts


def test_a_changed_contract_selects_the_modules_that_depend_on_it(shop: Path) -> None:
    write(shop, "modules/images/contract.py", CONTRACT.replace("image_id: int", "image_id: str"))
    selection = changed(shop)
    assert folders(selection) == ["boundaries", "events", "images"]
    base = git(shop, "rev-parse", "HEAD")[:9]
    assert f"events      depends on images, whose contract differs from {base}" in list(selection.lines())


@pytest.mark.parametrize(
    "contract",
    [
        CONTRACT.replace("About images.", "About pictures."),
        CONTRACT.replace('        """The picture."""\n', ""),
        CONTRACT.replace("class Images", "# what a class\nclass Images"),
        CONTRACT.replace("image_id: int", "\n        image_id: int,\n    "),
    ],
    ids=["a docstring", "no docstring", "a comment", "layout"],
)
def test_docstrings_comments_and_layout_do_not_change_a_contract(shop: Path, contract: str) -> None:
    assert contract != CONTRACT
    write(shop, "modules/images/contract.py", contract)
    assert folders(changed(shop)) == ["boundaries", "images"]


def test_files_that_a_contract_imports_belong_to_it(shop: Path) -> None:
    write(shop, "modules/images/units.py", "Pixels = str\n")
    assert folders(changed(shop)) == ["boundaries", "events", "images"]


def test_a_contract_may_be_a_package(shop: Path) -> None:
    write(shop, "modules/images/contract.py", None)
    write(shop, "modules/images/contract/__init__.py", "from .asking import Images\n")
    write(shop, "modules/images/contract/asking.py", CONTRACT.replace("modules.images.units", "..units"))
    commit(shop)
    for path, text in (("contract/asking.py", "Images = int\n"), ("units.py", "Pixels = str\n")):
        write(shop, f"modules/images/{path}", text)
        assert folders(changed(shop)) == ["boundaries", "events", "images"], path
        git(shop, "checkout", "-q", ".")
    write(shop, "modules/images/contract/asking.py", None)
    assert folders(changed(shop)) == ["boundaries", "events", "images"]


def test_a_contract_that_cannot_be_parsed_has_changed(shop: Path) -> None:
    for ending in ("def (\n", "def ((\n"):
        write(shop, "modules/images/contract.py", CONTRACT + ending)
        assert folders(changed(shop)) == ["boundaries", "events", "images"]
        commit(shop)


def test_a_deleted_module_selects_the_modules_that_depend_on_it(shop: Path) -> None:
    git(shop, "rm", "-r", "-q", "modules/images", "tests/modules/images")
    selection = changed(shop)
    assert folders(selection) == ["boundaries", "events"]
    assert selection.modules["images"].startswith("modules/images was deleted")


@pytest.mark.parametrize(
    "manifest",
    ["OTHERS = {'images'}\nmodule = Module(owner='a', depends_on=OTHERS)\n", "module = Module(**OPTIONS)\n", "def (\n"],
)
def test_dependencies_that_cannot_be_read_count_as_all(shop: Path, manifest: str) -> None:
    write(shop, "modules/health/module.py", manifest)
    commit(shop)
    write(shop, "modules/images/contract.py", "")
    assert folders(changed(shop)) == ["boundaries", "events", "health", "images"]


# Named modules


def test_a_named_module_runs_without_other_changed_modules(shop: Path) -> None:
    write(shop, "platform/kernel/application.py", "A = 1\n")
    write(shop, "modules/health/router.py", "A = 1\n")
    assert folders(select(shop, ["images"], by_change=False)) == ["boundaries", "images"]
    write(shop, "modules/images/contract.py", "")
    assert folders(select(shop, ["images"], by_change=False)) == ["boundaries", "events", "images"]


def test_named_and_changed_modules_add_up(shop: Path) -> None:
    write(shop, "modules/health/router.py", "A = 1\n")
    assert folders(select(shop, ["images"], by_change=True)) == ["boundaries", "health", "images"]


def test_an_unknown_module_is_refused_with_a_suggestion(shop: Path) -> None:
    with pytest.raises(ScopeError, match=r"There is no module event\. Did you mean events\?"):
        select(shop, ["event"], by_change=False)
    with pytest.raises(ScopeError, match=r"There is no module xyz\. There are: events, health, images\."):
        select(shop, ["xyz"], by_change=False)


# The commit of the comparison


def test_a_branch_is_compared_with_its_start(shop: Path) -> None:
    start = git(shop, "rev-parse", "HEAD")
    git(shop, "checkout", "-q", "-b", "topic")
    write(shop, "modules/events/router.py", "A = 1\n")
    commit(shop)
    git(shop, "checkout", "-q", "main")
    write(shop, "modules/health/router.py", "A = 1\n")
    commit(shop)
    git(shop, "checkout", "-q", "topic")
    selection = changed(shop)
    assert (selection.base, folders(selection)) == (start, ["boundaries", "events"])


def test_main_is_compared_with_its_last_commit(shop: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(shop), str(copy))
    git(copy, "config", "user.name", "Test")
    git(copy, "config", "user.email", "test@example.org")
    write(copy, "modules/events/router.py", "A = 1\n")
    commit(copy)
    assert folders(changed(copy)) == ["boundaries"]
    assert folders(changed(copy, "origin/main")) == ["boundaries", "events"]
    git(copy, "checkout", "-q", "-b", "topic")
    assert folders(changed(copy)) == ["boundaries", "events"], "a branch is compared with the main branch of the origin"


def test_a_main_branch_of_another_name_is_found_by_its_origin(shop: Path, tmp_path: Path) -> None:
    git(shop, "branch", "-q", "-m", "main", "trunk")
    git(tmp_path, "clone", "-q", str(shop), str(tmp_path / "copy"))
    assert Git(tmp_path / "copy").base() == git(shop, "rev-parse", "HEAD")
    with pytest.raises(GitError, match=r"There is no main branch .* Name a revision: --changed REV"):
        changed(shop)


def test_a_project_may_be_a_folder_of_a_repository(tmp_path: Path, shop: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "Test")
    git(tmp_path, "config", "user.email", "test@example.org")
    (shop / ".git").rename(tmp_path / "old.git")
    (tmp_path / ".gitignore").write_text("old.git\n")
    commit(tmp_path)
    write(tmp_path, "elsewhere.py", "")
    write(shop, "modules/images/contract.py", "")
    assert folders(changed(shop)) == ["boundaries", "events", "images"]


# An unknown selection is an error


@pytest.mark.parametrize("revision", ["nonsense", "HEAD~9", "--since=yesterday", "HEAD:README.md"])
def test_an_unknown_revision_is_refused(shop: Path, revision: str) -> None:
    with pytest.raises(GitError, match=f"Git has no commit {revision}"):
        changed(shop, revision)


def test_without_a_repository_or_a_common_commit_it_is_refused(tmp_path: Path, shop: Path) -> None:
    with pytest.raises(GitError, match="is not in a git repository"):
        changed(tmp_path)
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(GitError, match="has no commit to compare with"):
        changed(tmp_path / "empty")
    git(shop, "checkout", "-q", "--orphan", "island")
    commit(shop)
    with pytest.raises(GitError, match="HEAD and main have no common commit here"):
        changed(shop)


def test_without_git_it_is_refused(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(shop))
    with pytest.raises(GitError, match="Git is not installed"):
        changed(shop)


# The command


def kernel_test(
    root: Path,
    *modules: str,
    changed: str | None = None,
    whole: bool = False,
    only_list: bool = False,
    arguments: tuple[str, ...] = (),
    check: int = 0,
) -> int:
    def check_said() -> int:
        typer.echo("checked")
        return check

    return run(
        root,
        modules,
        changed=changed,
        whole=whole,
        only_list=only_list,
        pytest_arguments=arguments,
        check=check_said,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("check", "fails", "status"), [(0, False, 0), (1, False, 1), (0, True, 1), (2, True, 1)])
def test_the_boundary_checks_run_first_and_both_must_pass(
    shop: Path, capfd: pytest.CaptureFixture[str], check: int, fails: bool, status: int
) -> None:
    write(shop, "modules/events/router.py", "A = 1\n")
    if fails:
        write(shop, "tests/modules/events/test_events.py", "def test_events() -> None:\n    raise OSError\n")
    assert kernel_test(shop, check=check, arguments=("-v",)) == status
    printed = capfd.readouterr().out
    assert "test_rules.py" in printed
    assert "test_images" not in printed
    assert printed.index("boundaries  always") < printed.index("checked") < printed.index("test_events.py")


def test_the_selection_can_be_listed_without_running_it(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert kernel_test(shop, "events", only_list=True) == 0
    head = git(shop, "rev-parse", "HEAD")[:9]
    assert capfd.readouterr().out == f"boundaries  always (compared with {head})\nevents      named\n"


@pytest.mark.slow
def test_pytest_gets_its_arguments_and_returns_the_exit_code(shop: Path) -> None:
    assert kernel_test(shop, "events", arguments=("-k", "nothing")) == 5
    assert kernel_test(shop, "events", arguments=("--no-such-option",)) == 4


def test_an_unknown_selection_is_exit_code_2(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert kernel_test(shop, "event") == 2
    assert kernel_test(shop, changed="nonsense") == 2
    assert kernel_test(shop, changed="events") == 2
    printed = capfd.readouterr()
    assert "checked" not in printed.out
    assert "Did you mean events?" in printed.err
    assert "events is a module. Write: kernel test events --changed" in printed.err


def test_a_selection_without_tests_fails(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without paths, pytest would run what it finds."""
    git(shop, "rm", "-r", "-q", "tests/modules/events", "tests/boundaries")
    commit(shop)
    assert kernel_test(shop, "events") == 5
    assert "There are no tests for this" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_whole_lists_the_failures_that_the_selection_would_have_skipped(
    shop: Path, capfd: pytest.CaptureFixture[str], processes: tuple[str, ...]
) -> None:
    failing = "def test_fails() -> None:\n    assert False\n"
    write(shop, "tests/modules/health/test_health.py", failing)
    write(shop, "tests/modules/images/test_images.py", failing)
    write(shop, "tests/kernel/test_app.py", "import pytest\n@pytest.fixture\ndef x(): 1/0\ndef test_x(x): ...\n")
    commit(shop)
    write(shop, "modules/images/router.py", "A = 1\n")
    assert kernel_test(shop, whole=True, arguments=processes) == 1
    _, _, summary = capfd.readouterr().out.partition("kernel test would have skipped these failures")
    named = [line for line in summary.splitlines()[1:] if line.startswith("tests/")]
    assert named == ["tests/kernel/test_app.py::test_x", "tests/modules/health/test_health.py::test_fails"]


@pytest.mark.slow
def test_whole_lists_nothing_without_such_failures(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(shop, "tests/modules/images/test_images.py", "def test_fails() -> None:\n    assert False\n")
    assert kernel_test(shop, whole=True) == 1
    printed = capfd.readouterr().out
    assert "1 failed, 4 passed" in printed
    assert "would have skipped" not in printed
    write(shop, "platform/kernel/application.py", "A = 1\n")  # everything is selected
    assert kernel_test(shop, whole=True) == 1
    assert "would have skipped" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("", ([], None, False, [])),
        ("events", (["events"], None, False, [])),
        ("--changed", ([], "", False, [])),
        ("events --changed", (["events"], "", False, [])),
        ("--changed main", ([], "main", False, [])),
        ("--changed=main events", (["events"], "main", False, [])),
        ("--changed --whole", ([], "", True, [])),
        ("--whole --changed main -- -n auto", ([], "main", True, ["-n", "auto"])),
        ("events --changed -- --changed -k x", (["events"], "", False, ["--changed", "-k", "x"])),
        ("events --", (["events"], None, False, [])),
    ],
)
def test_changed_goes_with_and_without_a_revision(
    line: str, parsed: tuple[list[str], str | None, bool, list[str]]
) -> None:
    app, seen = typer.Typer(), []

    @app.command()
    def other() -> None: ...

    @app.command(cls=PytestCommand)
    def test(
        ctx: typer.Context,
        modules: Annotated[list[str] | None, typer.Argument()] = None,
        changed: Annotated[str | None, typer.Option()] = None,
        whole: Annotated[bool, typer.Option("--whole")] = False,
    ) -> None:
        seen.append((modules or [], changed, whole, ctx.args))

    answer = CliRunner().invoke(app, ["test", *line.split()])
    assert answer.exit_code == 0, answer.output
    assert seen == [parsed]


@pytest.mark.slow
def test_whole_runs_without_git(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(shop / ".git")
    assert kernel_test(shop, whole=True) == 0
    assert "would have skipped are unknown" in capfd.readouterr().out
