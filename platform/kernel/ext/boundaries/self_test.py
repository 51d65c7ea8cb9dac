"""Test the boundary rules themselves: apply each case to a copy of the project, and compare the findings."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kernel.ext.boundaries import lock, owners
from kernel.ext.boundaries.check import RULES, check
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.violations import Case, base, data, histories, imports, inside, lookalikes

VIOLATIONS: Mapping[str, list[Case]] = {
    "contract-only": imports.CONTRACT_ONLY,
    "declared": imports.DECLARED,
    "acyclic": imports.ACYCLIC,
    "libraries": inside.LIBRARIES,
    "layers": inside.LAYERS,
    "own-tables": data.OWN_TABLES,
    "values-only": inside.VALUES_ONLY,
    "contract-lock": inside.CONTRACT_LOCK,
    "owned": inside.OWNED,
    "one-metadata": data.ONE_METADATA,
    "one-history": histories.ONE_HISTORY,
}
VALID_EXAMPLES: Mapping[str, list[Case]] = {
    "contract-only": imports.VALID_CONTRACT_ONLY,
    "declared": imports.VALID_DECLARED,
    "acyclic": imports.VALID_ACYCLIC,
    "libraries": inside.VALID_LIBRARIES,
    "layers": inside.VALID_LAYERS,
    "own-tables": lookalikes.VALID_OWN_TABLES,
    "values-only": inside.VALID_VALUES_ONLY,
    "contract-lock": inside.VALID_CONTRACT_LOCK,
    "owned": inside.VALID_OWNED,
    "one-metadata": data.VALID_ONE_METADATA,
    "one-history": histories.VALID_ONE_HISTORY,
}

_COPIED = ("modules", "migrations", "tests/modules", "importlinter.ini", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


class SelfTestError(Exception):
    """Raised if the self-test cannot run. The message says why."""


@dataclass(frozen=True)
class SelfTestResult:
    """The result of all cases, counted by rule."""

    violations: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    valid_examples: Counter[str] = field(default_factory=Counter)
    false_alarms: Counter[str] = field(default_factory=Counter)
    # One line for each violation that was not found and each valid example that was.
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return a table with one row for each rule."""
        columns = (self.violations, self.caught, self.valid_examples, self.false_alarms)
        table = Table("rule", "violations", "caught", "valid examples", "false alarms")
        for rule in RULES:
            table.add_row(rule, *(str(column[rule]) for column in columns), end_section=rule == RULES[-1])
        table.add_row("all", *(str(column.total()) for column in columns))
        out = io.StringIO()
        Console(file=out, width=100).print(table)
        return out.getvalue()


def run_self_test(root: Path) -> SelfTestResult:
    """Try all cases, in one process for each processor. Raises SelfTestError if the unchanged copy has findings."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="boundaries-") as folder:
        running = []
        for number in range(workers):
            copy = copied(root, Path(folder) / str(number))
            places = (copy, Path(__file__).parents[3])
            # A new process, which has not imported the modules of the project.
            running.append(
                subprocess.Popen(  # noqa: S603  # our own Python
                    [sys.executable, "-m", "kernel.ext.boundaries.self_test", str(copy), str(number), str(workers)],
                    # No bytecode: Python compares its time in seconds, and a case lasts less than one.
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"},
                    cwd=copy,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        outputs = [process.communicate()[0] for process in running]
    failed = [text for process, text in zip(running, outputs, strict=True) if process.returncode]
    if failed:
        raise SelfTestError("\n".join(failed) or "A process of the self-test failed without output.")
    return _counted([tuple(result) for text in outputs for result in json.loads(text)])


def copied(root: Path, copy: Path) -> Path:
    """Copy the project, add the modules `left` and `right`, and write the locks and CODEOWNERS for them."""
    for name in _COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=_LEFT_OUT)
        elif (root / name).is_file():
            shutil.copy(root / name, copy / name)
    for path, text in base.base().items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text, "utf-8")
    project = Project(copy)
    lock.write(project)
    place = owners.place(copy)
    place.parent.mkdir(exist_ok=True)
    place.write_text(owners.written(project), "utf-8")
    return copy


@contextmanager
def applied(copy: Path, case: Case) -> Iterator[None]:
    """Apply a case to the copy; restore every file afterwards."""
    before = {path: (copy / path).read_bytes() if (copy / path).exists() else None for path in case.files}
    new = {folder for path in case.files for folder in (copy / path).parents if not folder.exists()}
    try:
        for path, change in case.files.items():
            file = copy / path
            file.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text("utf-8") if file.exists() else ""
            if isinstance(change, str):
                file.write_text(f"{text}\n{change}\n" if text else f"{change}\n", "utf-8")
            else:
                if change[0] not in text:
                    raise SelfTestError(f"The case {case.name!r} replaces {change[0]!r}, which is not in {path}.")
                file.write_text(text.replace(*change), "utf-8")
        yield
    finally:
        for path, content in before.items():
            if content is None:
                (copy / path).unlink(missing_ok=True)
            else:
                (copy / path).write_bytes(content)
        for folder in sorted(new, reverse=True):
            shutil.rmtree(folder, ignore_errors=True)


# The rule, whether the case is a violation, its name, and what went wrong ("" if nothing did).
Result = tuple[str, bool, str, str]


def try_all(copy: Path, number: int, workers: int) -> list[Result]:
    """Try every `workers`-th case from `number` on. Raises SelfTestError if the unchanged copy has findings."""
    _must_be_clean(copy, "before the first case")
    cases = [(rule, True, case) for rule in RULES for case in VIOLATIONS[rule]]
    cases += [(rule, False, case) for rule in RULES for case in VALID_EXAMPLES[rule]]
    results = []
    for rule, is_violation, case in cases[number::workers]:
        with applied(copy, case):
            found = check(Project(copy))
        wrong = _wrong_violation(rule, case, found) if is_violation else _shown(found)
        results.append((rule, is_violation, case.name, wrong))
    _must_be_clean(copy, "after the last case")
    return results


def _wrong_violation(rule: str, case: Case, found: list[Finding]) -> str:
    """Return what is wrong with the findings for a violation: its rule is missing, or another rule is there.

    A file that breaks a rule may also be one that cannot be imported.
    """
    if not any(one.rule == rule and (one.path == case.path or case.at == "") for one in found):
        return f"not found at {case.path}; found: {_shown(found) or 'nothing'}"
    return _shown([one for one in found if one.rule not in {rule, COULD_NOT_CHECK, *case.also}])


def _shown(found: list[Finding]) -> str:
    return "; ".join(f"{one.rule} at {one.path}:{one.line}: {one.why}" for one in found)


def _must_be_clean(copy: Path, when: str) -> None:
    if found := check(Project(copy)):
        raise SelfTestError(f"The copy has findings {when}: {_shown(found)}")


def _counted(results: list[Result]) -> SelfTestResult:
    counted = SelfTestResult()
    for rule, is_violation, name, wrong in results:
        (counted.violations if is_violation else counted.valid_examples)[rule] += 1
        if is_violation:
            counted.caught[rule] += not wrong
        else:
            counted.false_alarms[rule] += bool(wrong)
        if wrong:
            counted.failures.append(f"{rule}, {'violation' if is_violation else 'valid example'} {name!r}: {wrong}")
    return counted


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(try_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
    except SelfTestError as error:
        sys.stdout.write(str(error))
        sys.exit(1)
