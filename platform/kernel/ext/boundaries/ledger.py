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
    """The ledger cannot be read. The message says what to do."""


# What a debt is known by: lines move, so they are no part of it.
Debt = tuple[str, str, str]


def debt(found: Finding) -> Debt:
    """What a finding is known by in the ledger."""
    return found.rule, found.path, found.why


def read(root: Path) -> Counter[Debt]:
    """The accepted findings, each as often as it is accepted. Raises LedgerError."""
    path = root / FILE
    return _debts(path.read_text("utf-8")) if path.is_file() else Counter()


def _debts(text: str) -> Counter[Debt]:
    try:
        return Counter({(one["rule"], one["path"], one["why"]): int(one["times"]) for one in json.loads(text)["debts"]})
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{FILE} cannot be read ({error!r}): take it back from git, or mend it.") from None


def write(project: Project, findings: Iterable[Finding]) -> tuple[int, list[Finding]]:
    """Accept the findings, or, where there is a ledger, strike out what is paid; how many debts are in it, what is new.

    Raises LedgerError.
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
    """What of the accepted is still there, and the findings beyond it."""
    left, new = Counter[Debt](), []
    for found in findings:
        if left[debt(found)] < accepted[debt(found)]:
            left[debt(found)] += 1
        else:
            new.append(found)
    return +left, new


def apply(root: Path, findings: Iterable[Finding], since: str | None = None) -> list[Finding]:
    """The findings that are not accepted, and what is wrong with the ledger itself: debts paid, debts added.

    `since` is the revision that the ledger may not have grown from, by default the last commit. Raises LedgerError.
    """
    accepted = read(root)
    if not (root / FILE).is_file():
        return list(findings)
    left, new = _settled(accepted, findings)
    paid = accepted - left
    if paid:
        why = f"{sum(paid.values())} accepted finding(s) are gone, so that they could come back unseen: {_first(paid)}."
        new.append(Finding(FILE, 0, RULE, why, "Run `kernel check --baseline`, which strikes them out."))
    added = accepted - _before(root, since)
    if added:
        why = f"The ledger has grown by {sum(added.values())}, and it may only shrink: {_first(added)}."
        new.append(Finding(FILE, 0, RULE, why, "Mend what was found, and take the ledger back from git."))
    return new


def _before(root: Path, since: str | None) -> Counter[Debt]:
    """The ledger at a revision; the one on the disk where that had none, or where there is no git."""
    try:
        git = Git(root)
        return _debts(git.text(since or "HEAD", FILE))
    except GitError:
        return read(root)


def _first(debts: Counter[Debt]) -> str:
    rule, path, _ = min(debts)
    return f"{rule} in {path}" + (" and others" if len(debts) > 1 else "")
