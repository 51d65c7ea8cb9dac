"""The command `kernel check`: its exit codes and reports, and a finding for everything that it cannot check."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from kernel.ext.boundaries import check as rules
from kernel.ext.boundaries import cli
from kernel.ext.boundaries.check import RULES
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.self_test import VALID_EXAMPLES, VIOLATIONS, SelfTestError, applied, copied
from kernel.ext.boundaries.violations import Case, edit
from tests.core.project import imported_alone

pytestmark = pytest.mark.integration

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def clean(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with the modules `left` and `right`, and without findings."""
    return copied(root, tmp_path_factory.mktemp("boundaries") / "copy")


@pytest.fixture
def copy(clean: Path) -> Iterator[Path]:
    """Return the copy, and restore it after the test."""
    before = {path: path.read_bytes() for path in clean.rglob("*") if path.is_file()}
    yield clean
    for path in [path for path in clean.rglob("*") if path.is_file() and path not in before]:
        path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def check(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1"} | variables
    command = [BIN / "kernel", "check", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_project_without_findings_exits_with_0(copy: Path) -> None:
    done = check(copy)
    assert (done.returncode, done.stdout) == (0, "No boundary violations found.\n"), done.stderr


@pytest.fixture(scope="module")
def findings(clean: Path) -> list[Finding]:
    """Return the findings of the copy with an import of another module's models, and one inside a layer."""
    with (
        imported_alone(),
        applied(clean, edit("", "modules/left/service.py", "from modules.right.models import Right")),
        applied(clean, edit("", "modules/left/models.py", "from modules.left.schemas import Out")),
    ):
        return rules.check(Project(clean))


@pytest.fixture
def report(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Return a function that runs `kernel check` in this process, as if the rules had these findings."""
    monkeypatch.chdir(clean)
    application = typer.Typer()
    cli.add_to(application)

    def run(found: list[Finding], *options: str) -> Result:
        monkeypatch.setattr(rules, "check", lambda _project: found)
        return CliRunner().invoke(application, ["check", *options])

    yield run
    gc.enable()  # the command disables it, for its process ends soon


def test_a_finding_names_the_place_the_reason_and_the_remedy(
    report: Callable[..., Result], findings: list[Finding]
) -> None:
    done = report([one for one in findings if one.rule == "contract-only"])
    assert done.exit_code == 1
    place, why, instead = done.stdout.splitlines()[:3]
    assert place == "modules/left/service.py:10: contract-only"
    assert why.startswith("  modules.left.service imports modules.right.models: ")
    assert instead.startswith("  Instead: Ask through the other module's contract.py.")
    assert done.stderr == "1 finding(s).\n"


def test_a_layer_finding_names_the_files_of_the_layer_and_the_place_for_an_enum(findings: list[Finding]) -> None:
    [found] = [one for one in findings if one.rule == "layers"]
    layers = "models.py and schemas.py are on one layer and do not import each other."
    assert found.why == f"modules.left.models imports modules.left.schemas: {layers}"
    assert 'helpers={"kinds": "contract"} in module.py' in found.instead


def test_the_json_report(report: Callable[..., Result], findings: list[Finding]) -> None:
    assert json.loads(report([], "--format", "json").stdout) == []
    done = report(findings, "--format", "json")
    assert [found["rule"] for found in json.loads(done.stdout)] == ["layers", "contract-only"]
    assert all(found.keys() == {"path", "line", "rule", "why", "instead"} for found in json.loads(done.stdout))
    assert done.exit_code == 1


def test_the_github_report(report: Callable[..., Result], findings: list[Finding]) -> None:
    done = report(findings, "--format", "github")
    assert done.exit_code == 1
    assert "::error file=modules/left/service.py,line=10,title=contract-only::modules.left" in done.stdout


UNSEEN = {
    "a file that is not Python": edit("", "modules/left/service.py", "def broken(:"),
    "a file with a NUL": edit("", "modules/left/service.py", "\0"),
    "a test that is not Python": edit("", "tests/modules/left/test_left.py", "def broken(:"),
    "a folder without an __init__.py": edit("", "modules/left/hidden/file.py", "import modules.right.models"),
    "a module without an __init__.py": edit("", "modules/hidden/router.py", "import modules.right.models"),
    "a module without a manifest": edit("", "modules/bare/__init__.py", ""),
    "a file that belongs to no module": edit("", "modules/stray.py", "import modules.right.models"),
    "computed dependencies": edit("", "modules/left/module.py", ('{"right"}', "others()")),
    "computed options of a manifest": edit("", "modules/left/module.py", ("Module(", "Module(**MORE, ")),
    "two manifests": edit("", "modules/left/module.py", 'other = Module(owner="x")'),
    "a helper on a list of layers": edit("", "modules/left/module.py", ('"words": "service"', '"words": ["service"]')),
    "an expression that is too deep": edit("", "modules/left/service.py", 'X = "a"' + ".strip()" * 700),
    "a misspelled wildcard": edit("", "importlinter.ini", ("    modules.*.router\n", "    modules.*.ruoter\n")),
    "a contract that was removed": edit(
        "", "importlinter.ini", ("importlinter:contract:contract-only", "importlinter:contract:x")
    ),
    "a contract with an invalid option": edit("", "importlinter.ini", ("depth = 0", "depth = deep")),
    "a contract of an unknown type": edit("", "importlinter.ini", ("type = protected", "type = portected")),
    "no contracts at all": edit("", "importlinter.ini", ("importlinter:contract", "somethingelse:contract")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", UNSEEN)
def test_a_failed_check_is_a_finding_and_exits_with_2(copy: Path, case: str) -> None:
    with applied(copy, UNSEEN[case]):
        done = check(copy)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "could-not-check" in done.stdout


NAMES = [f"name_{number}" for number in range(30)]


def in_a_function(*lines: str) -> Case:
    """Return a case with code that is read but never runs: it would fail, or fill the memory."""
    return edit("", "modules/left/repository.py", "def f() -> None:\n    " + "\n    ".join(lines))


ODD = {
    "a sum of many terms": in_a_function(f"x = text({' + '.join(['Left'] * 600)} + 'a')"),
    "an invalid format": in_a_function("x = '{²}'.format(1)"),
    "many placeholders": in_a_function(f"x = '{'{}' * 200}'.format(*Left)"),
    "a class derived from itself": in_a_function('class A(A):\n        __tablename__ = "a"'),
    "names that are sums of each other": in_a_function(*(f"{name} = '' + {' + '.join(NAMES)}" for name in NAMES)),
    "names that refer to each other": in_a_function(*(f"{a} = {b}" for a in NAMES for b in NAMES), "name_1()"),
    "functions that call each other with their parameters": in_a_function(
        *(f"def {name}(a): {'; '.join(f'{other}(a.x)' for other in NAMES)}" for name in NAMES), "name_1(text('x'))"
    ),
    "names that double": in_a_function("A0 = 'ab'", *(f"A{n + 1} = A{n} + A{n}" for n in range(60))),
    "an editor's files": Case(
        "", dict.fromkeys(["modules/left/.#x.py", "modules/left/._x.py"], "import modules.right(")
    ),
    "a byte order mark": edit("", "modules/left/storage.py", ('"""Bytes."""', '\ufeff"""Bytes."""')),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ODD)
def test_unusual_code_is_read(copy: Path, case: str) -> None:
    with applied(copy, ODD[case]):
        done = check(copy)
    assert (done.returncode, done.stdout) == (0, "No boundary violations found.\n"), done.stderr


MORE = '''
more = APIRouter()


@more.get("/{it}/open")
async def read_open(it: int) -> int:
    """Read it: a nested route, which only the assembled router shows."""
    return it


router.include_router(more)
'''


@pytest.mark.slow
def test_a_route_without_a_policy_is_found_at_its_handler(copy: Path) -> None:
    router = copy / "modules/left/router.py"
    router.write_text(router.read_text() + MORE)
    line = router.read_text().splitlines().index('@more.get("/{it}/open")') + 1
    done = check(copy)
    place, why, instead = done.stdout.splitlines()[:3]
    assert (done.returncode, place) == (1, f"modules/left/router.py:{line}: guarded")
    assert why == "  GET /{it}/open has no access policy."
    assert instead.startswith('  Instead: Give the route or its router dependencies=[requires("...")]')


@pytest.mark.slow
def test_a_route_without_a_policy_is_found_beside_other_findings(copy: Path) -> None:
    router = copy / "modules/left/router.py"
    router.write_text(router.read_text() + MORE)
    with applied(copy, edit("", "modules/left/service.py", "import modules.right.models")):
        found = json.loads(check(copy, "--format", "json").stdout)
    assert {one["rule"] for one in found} == {"contract-only", "guarded"}


@pytest.mark.slow
def test_a_missing_importlinter_ini_exits_with_2(copy: Path) -> None:
    (copy / "importlinter.ini").unlink()
    done = check(copy)
    assert done.returncode == 2
    assert "There is no importlinter.ini" in done.stdout


def test_outside_a_project_it_exits_with_2(
    report: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = report([])
    assert done.exit_code == 2
    assert "is not in a project" in done.stderr


@pytest.mark.slow
def test_modules_of_another_project_on_the_path_are_refused(copy: Path, root: Path) -> None:
    """With the modules of another project first on the path, import-linter would judge those."""
    done = check(copy, PYTHONPATH=os.pathsep.join(map(str, (root, copy))))
    assert done.returncode == 2
    assert "Python would import the package modules from" in done.stdout


@pytest.mark.slow
def test_the_ledger_accepts_the_current_findings_only(copy: Path) -> None:
    debt = edit("", "modules/left/service.py", "import modules.right.models")
    with applied(copy, debt):
        assert "1 accepted finding(s)" in check(copy, "--baseline").stderr
        assert check(copy).returncode == 0
        with applied(copy, edit("", "modules/left/words.py", "import modules.right.models")):
            done = check(copy)
            assert (done.returncode, done.stdout.count("contract-only")) == (1, 1)
    assert "ledger" in check(copy).stdout  # The accepted finding is gone.
    check(copy, "--baseline")
    assert check(copy).returncode == 0


@pytest.mark.slow
def test_a_failed_check_cannot_be_accepted(copy: Path) -> None:
    with applied(copy, edit("", "modules/left/service.py", "def broken(:")):
        assert check(copy, "--baseline").returncode == 2
        assert check(copy).returncode == 2


def test_every_rule_has_several_violations_and_valid_examples() -> None:
    assert set(VIOLATIONS) == set(VALID_EXAMPLES) == set(RULES)
    assert all(len(VIOLATIONS[rule]) >= 5 and len(VALID_EXAMPLES[rule]) >= 3 for rule in RULES)
    for cases in (*VIOLATIONS.values(), *VALID_EXAMPLES.values()):
        assert len({one.name for one in cases}) == len(cases)


@pytest.mark.parametrize("rule", [*RULES, "guarded"])
def test_the_documentation_explains_every_rule_once(root: Path, rule: str) -> None:
    pages = {path.name: path.read_text() for path in (root / "docs").glob("boundaries*.md")}
    [(name, section)] = [
        (name, text.partition(f"\n### {rule}\n")[2].partition("\n##")[0])
        for name, text in pages.items()
        if f"\n### {rule}\n" in text
    ]
    assert all(f"\n**{word}" in section for word in ("Why.", "Refuses", "Instead:", "Cannot see"))
    assert f"| [{rule}]({name}#{rule}) |" in pages["boundaries.md"]


def environment(copy: Path) -> dict[str, str]:
    """Import the modules from the copy."""
    return os.environ | {"PYTHONPATH": str(copy)}


def judged(copy: Path, rule: str, one: Case, *, violation: bool) -> str:
    """Return what the self-test reports about one case."""
    script = (
        "import sys, json\nfrom pathlib import Path\nfrom kernel.ext.boundaries import self_test\n"
        f"one = {one!r}\nself_test.RULES = ({rule!r},)\n"
        f"self_test.VIOLATIONS = {{{rule!r}: [one] if {violation} else []}}\n"
        f"self_test.VALID_EXAMPLES = {{{rule!r}: [] if {violation} else [one]}}\n"
        "print(json.dumps(self_test.try_all(Path(sys.argv[1]), 0, 1)))"
    )
    script = script.replace("Case(", "self_test.Case(")
    done = subprocess.run(
        [sys.executable, "-c", script, copy],
        cwd=copy,
        env=environment(copy),
        capture_output=True,
        text=True,
        check=True,
    )
    [(_, _, _, wrong)] = json.loads(done.stdout)
    return str(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "code", "violation", "wrong"),
    [
        ("contract-only", "X = 1", True, "not found at modules/left/service.py; found: nothing"),
        ("own-tables", "import modules.right.models", True, "contract-only at modules/left/service.py"),
        ("contract-only", "import modules.right.models", True, ""),
        ("contract-only", "import modules.right.models", False, "contract-only at modules/left/service.py:10"),
        ("contract-only", "X = 1", False, ""),
    ],
)
def test_the_self_test_reports_missed_violations_and_false_alarms(
    copy: Path, rule: str, code: str, violation: bool, wrong: str
) -> None:
    said = judged(copy, rule, edit("x", "modules/left/service.py", code), violation=violation)
    assert wrong in said
    assert bool(wrong) == bool(said)


@pytest.mark.slow
def test_the_self_test_refuses_a_copy_with_findings(copy: Path) -> None:
    with applied(copy, edit("x", "modules/left/service.py", "import modules.right.models")):
        done = subprocess.run(
            [sys.executable, "-m", "kernel.ext.boundaries.self_test", copy, "0", "1"],
            cwd=copy,
            env=environment(copy),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout.startswith("The copy has findings before the first case: contract-only at modules/left")


def test_a_case_that_replaces_missing_text_is_an_error(copy: Path) -> None:
    missing = edit("x", "modules/left/service.py", ("text that is not in the file", "y"))
    with pytest.raises(SelfTestError, match="which is not in"), applied(copy, missing):
        pass
