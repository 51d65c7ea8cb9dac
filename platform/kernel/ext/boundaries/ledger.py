"""The ledger: accepted findings in a committed file, which may only shrink."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.git import Git, GitError
from kernel.ext.boundaries.project import FOLDERS, Project

FILE = "boundaries.ledger.json"
RULE = "ledger"


class LedgerError(Exception):
    """Raised if the ledger cannot be read. The message says what to do."""


# Rule, path and reason identify an accepted finding. Lines do not, because they move.
Debt = tuple[str, str, str]


def debt(found: Finding) -> Debt:
    """Return what identifies a finding in the ledger."""
    return found.rule, found.path, found.why


def read(root: Path) -> Counter[Debt]:
    """Return the accepted findings, each with the number of times. Raises LedgerError."""
    path = root / FILE
    return _debts(path.read_text("utf-8")) if path.is_file() else Counter()


def _debts(text: str) -> Counter[Debt]:
    try:
        return Counter({(one["rule"], one["path"], one["why"]): int(one["times"]) for one in json.loads(text)["debts"]})
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{FILE} cannot be read ({error!r}): restore it from git.") from None


def write(project: Project, findings: Iterable[Finding]) -> tuple[int, list[Finding]]:
    """Write the ledger: without one, accept all findings; otherwise, only remove entries whose findings are gone.

    Return the number of accepted findings, and the findings that are not accepted. Raises LedgerError.
    """
    root = project.root
    accepted = read(root) if (root / FILE).is_file() else None
    left, new = (Counter(map(debt, findings)), []) if accepted is None else _settled(accepted, findings)
    owners = {f"{folder}/{name}/": one.owner for name, one in project.modules.items() for folder in FOLDERS}
    debts = [
        {
            "rule": rule,
            "path": path,
            "owner": next((owner for folder, owner in owners.items() if path.startswith(folder)), None),
            "times": times,
            "why": why,
        }
        for (rule, path, why), times in sorted(left.items())
    ]
    (root / FILE).write_text(json.dumps({"debts": debts}, indent=2) + "\n", "utf-8")
    return sum(left.values()), new


def _settled(accepted: Counter[Debt], findings: Iterable[Finding]) -> tuple[Counter[Debt], list[Finding]]:
    """Return the accepted findings that are still there, and the findings that are not accepted."""
    left, new = Counter[Debt](), []
    for found in findings:
        if left[debt(found)] < accepted[debt(found)]:
            left[debt(found)] += 1
        else:
            new.append(found)
    return +left, new


def apply(root: Path, findings: Iterable[Finding], since: str | None = None) -> list[Finding]:
    """Return the findings that are not accepted, and findings about the ledger: obsolete and added entries.

    `since` is the revision to compare the ledger with, by default the last commit. Raises LedgerError.
    """
    accepted = read(root)
    if not (root / FILE).is_file():
        return list(findings)
    left, new = _settled(accepted, findings)
    paid = accepted - left
    if paid:
        why = f"{sum(paid.values())} accepted finding(s) are gone, and could return without a report: {_first(paid)}."
        new.append(Finding(FILE, 0, RULE, why, "Run `kernel check --baseline`, which removes them."))
    added = accepted - _before(root, since)
    if added:
        why = f"The ledger has grown by {sum(added.values())}, and it may only shrink: {_first(added)}."
        new.append(Finding(FILE, 0, RULE, why, "Correct the findings, and restore the ledger from git."))
    return new


def _before(root: Path, since: str | None) -> Counter[Debt]:
    """Return the ledger of a revision; without git, or without a ledger there, the current one."""
    try:
        git = Git(root)
        return _debts(git.text(since or "HEAD", FILE))
    except GitError:
        return read(root)


def _first(debts: Counter[Debt]) -> str:
    rule, path, _ = min(debts)
    return f"{rule} in {path}" + (" and others" if len(debts) > 1 else "")
