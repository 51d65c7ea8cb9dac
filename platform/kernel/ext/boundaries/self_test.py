"""The proof that the walls hold: every plant in a copy of the project, one after the other."""

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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kernel.ext.boundaries import lock, owners
from kernel.ext.boundaries.check import RULES, check
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.violations import Plant, base, data, histories, imports, inside, lookalikes

VIOLATIONS: Mapping[str, list[Plant]] = {
    "contract-only": imports.CONTRACT_ONLY,
    "declared": imports.DECLARED,
    "acyclic": imports.ACYCLIC,
    "kernel-clean": inside.KERNEL_CLEAN,
    "layers": inside.LAYERS,
    "own-tables": data.OWN_TABLES,
    "values-only": inside.VALUES_ONLY,
    "contract-lock": inside.CONTRACT_LOCK,
    "owned": inside.OWNED,
    "one-metadata": data.ONE_METADATA,
    "one-history": histories.ONE_HISTORY,
}
INNOCENTS: Mapping[str, list[Plant]] = {
    "contract-only": imports.INNOCENT_CONTRACT_ONLY,
    "declared": imports.INNOCENT_DECLARED,
    "acyclic": imports.INNOCENT_ACYCLIC,
    "kernel-clean": inside.INNOCENT_KERNEL_CLEAN,
    "layers": inside.INNOCENT_LAYERS,
    "own-tables": lookalikes.INNOCENT_OWN_TABLES,
    "values-only": inside.INNOCENT_VALUES_ONLY,
    "contract-lock": inside.INNOCENT_CONTRACT_LOCK,
    "owned": inside.INNOCENT_OWNED,
    "one-metadata": data.INNOCENT_ONE_METADATA,
    "one-history": histories.INNOCENT_ONE_HISTORY,
}

_COPIED = ("platform/kernel", "modules", "migrations", "tests/modules", "importlinter.ini", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


class ProofError(Exception):
    """Nothing can be proven. The message says why."""


@dataclass(frozen=True)
class Proof:
    """What came of all plants: by rule what was planted and caught, and what was wrongly found."""

    planted: Counter[str]
    caught: Counter[str]
    innocents: Counter[str]
    alarms: Counter[str]
    # A line for each plant that was not found, or wrongly.
    failures: list[str]

    def table(self) -> str:
        """For people: a row for each rule."""
        table = Table("rule", "planted", "caught", "innocents", "false alarms")
        for rule in RULES:
            counts = (self.planted[rule], self.caught[rule], self.innocents[rule], self.alarms[rule])
            table.add_row(rule, *map(str, counts), end_section=rule == RULES[-1])
        totals = (one.total() for one in (self.planted, self.caught, self.innocents, self.alarms))
        table.add_row("all", *map(str, totals))
        out = io.StringIO()
        Console(file=out, width=100).print(table)
        return out.getvalue()


def prove(root: Path) -> Proof:
    """Plant everything, on all processors. Raises ProofError where the copy is not clean to begin with."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="walls-") as folder:
        running = []
        for number in range(workers):
            copy = copied(root, Path(folder) / str(number))
            places = (copy / "platform", copy, Path(__file__).parents[3])
            # A process of its own, which has not imported the kernel: the linter must look at that of the copy.
            running.append(
                subprocess.Popen(  # noqa: S603  # our own Python
                    [sys.executable, "-m", "kernel.ext.boundaries.self_test", str(copy), str(number), str(workers)],
                    # Without bytecode: it is compared by seconds, and a plant stands for less than one.
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"},
                    cwd=copy,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        said = [process.communicate()[0] for process in running]
    failed = [text for process, text in zip(running, said, strict=True) if process.returncode]
    if failed:
        raise ProofError("\n".join(failed) or "A process of the proof has failed.")
    return _counted([tuple(result) for text in said for result in json.loads(text)])


def copied(root: Path, copy: Path) -> Path:
    """The project with `left` and `right`, its owners and contracts as they should be."""
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
def planted(copy: Path, plant: Plant) -> Iterator[None]:
    """The copy with a plant in it; afterwards byte for byte as before."""
    before = {path: (copy / path).read_bytes() if (copy / path).exists() else None for path in plant.files}
    new = {folder for path in plant.files for folder in (copy / path).parents if not folder.exists()}
    try:
        for path, change in plant.files.items():
            file = copy / path
            file.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text("utf-8") if file.exists() else ""
            if isinstance(change, str):
                file.write_text(f"{text}\n{change}\n" if text else f"{change}\n", "utf-8")
            else:
                if change[0] not in text:
                    raise ProofError(f"{plant.name}: {path} does not say {change[0]!r}.")
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


# Rule, whether it is a violation, the name, and what is wrong; "" where it went as it must.
Result = tuple[str, bool, str, str]


def try_all(copy: Path, number: int, workers: int) -> list[Result]:
    """Every so-manieth plant, in a copy that is clean before and after. Raises ProofError."""
    _must_be_clean(copy, "before the first plant")
    plants = [(rule, True, plant) for rule in RULES for plant in VIOLATIONS[rule]]
    plants += [(rule, False, plant) for rule in RULES for plant in INNOCENTS[rule]]
    results = []
    for rule, is_violation, plant in plants[number::workers]:
        with planted(copy, plant):
            found = check(Project(copy))
        wrong = _wrong_violation(rule, plant, found) if is_violation else _shown(found)
        results.append((rule, is_violation, plant.name, wrong))
    _must_be_clean(copy, "after the last plant")
    return results


def _wrong_violation(rule: str, plant: Plant, found: list[Finding]) -> str:
    """What is wrong with the findings at a violation: it is not among them, or others are.

    A file that breaks a rule may rightly be one that cannot be imported, too.
    """
    if not any(one.rule == rule and (one.path == plant.path or plant.at == "") for one in found):
        return f"not found at {plant.path}; {_shown(found) or 'nothing was'}"
    return _shown([one for one in found if one.rule not in {rule, COULD_NOT_CHECK, *plant.also}])


def _shown(found: list[Finding]) -> str:
    return "; ".join(f"{one.rule} at {one.path}:{one.line}: {one.why}" for one in found)


def _must_be_clean(copy: Path, when: str) -> None:
    if found := check(Project(copy)):
        raise ProofError(f"The copy is not clean {when}: {_shown(found)}")


def _counted(results: list[Result]) -> Proof:
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("planted", "caught", "innocents", "alarms")}
    failures = []
    for rule, is_violation, name, wrong in results:
        counts["planted" if is_violation else "innocents"][rule] += 1
        if is_violation and not wrong:
            counts["caught"][rule] += 1
        elif wrong:
            counts["alarms"][rule] += not is_violation
            failures.append(f"{rule}, {'violation' if is_violation else 'innocent'} {name!r}: {wrong}")
    return Proof(failures=failures, **counts)


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(try_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
    except ProofError as error:
        sys.stdout.write(str(error))
        sys.exit(1)
