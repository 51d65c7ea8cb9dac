"""Ask git which files changed, and for their earlier content."""

import subprocess
from pathlib import Path

# Names of the main branch, the most reliable first.
_MAIN = ("origin/HEAD", "origin/main", "origin/master", "main", "master")


class GitError(Exception):
    """Raised if git cannot tell what changed. The message says what to do."""


class Git:
    """The repository of the project at `root`, which may be one folder of it. Paths are relative to `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        if not (self._ask("rev-parse", "--is-inside-work-tree") or "").startswith("true"):
            raise GitError(f"{root} is not in a git repository, so the changes are unknown. Run pytest instead.")

    def base(self, revision: str | None = None) -> str:
        """Return the commit to compare with: `revision`, or the start of this branch; on the main branch, HEAD.

        Raises GitError.
        """
        if revision is not None:
            return self._commit(revision) or self._unknown(revision)
        head = self._commit("HEAD")
        if head is None:
            raise GitError("The repository has no commit to compare with. Commit, or run pytest.")
        main = next((name for name in _MAIN if self._commit(name)), None)
        if main is None:
            raise GitError(f"There is no main branch (none of {', '.join(_MAIN)}). Name a revision: --changed REV")
        if self._branch("HEAD") in {self._branch(main) or main, main.removeprefix("origin/")}:
            return head
        base = self._ask("merge-base", head, main)
        if not base:
            raise GitError(
                f"HEAD and {main} have no common commit here. Fetch the history, or name a revision: --changed REV"
            )
        return base.strip()

    def changed(self, base: str) -> list[str]:
        """Return the files that differ from a commit: changed, new, deleted, and both names of renamed files."""
        differing = self._must("diff", "--name-only", "--no-renames", "--no-ext-diff", "--relative", "-z", base, "--")
        new = self._must("ls-files", "--others", "--exclude-standard", "-z")
        return sorted({*differing.split("\0"), *new.split("\0")} - {""})

    def files(self, commit: str, folder: str) -> set[str]:
        """Return the files below a folder in a commit."""
        return set(self._must("ls-tree", "-r", "--name-only", "-z", commit, "--", f"{folder}/").split("\0")) - {""}

    def text(self, commit: str, path: str) -> str:
        """Return the content of a file in a commit."""
        return self._must("show", f"{commit}:./{path}")

    def _commit(self, revision: str) -> str | None:
        found = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return found and found.strip()

    def _branch(self, name: str) -> str:
        """Return the branch that a name such as HEAD stands for; "" for any other name."""
        kind = f"refs/remotes/{name}" if name.startswith("origin/") else name
        full = (self._ask("symbolic-ref", "--quiet", kind) or "").strip()
        return full.removeprefix("refs/heads/").removeprefix("refs/remotes/origin/")

    def _unknown(self, revision: str) -> str:
        raise GitError(f"Git has no commit {revision}. See `git log`; in a shallow clone, fetch the history first.")

    def _must(self, *command: str) -> str:
        answer = self._ask(*command)
        if answer is None:
            raise GitError(f"`git {' '.join(command)}` failed in {self._root}.")
        return answer

    def _ask(self, *command: str) -> str | None:
        """Return the output of git; None if it fails."""
        try:
            done = subprocess.run(  # noqa: S603  # the arguments are ours, and revisions cannot be options
                ["git", *command],  # noqa: S607  # the developer's git
                cwd=self._root,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError:
            raise GitError("Git is not installed, so the changes are unknown. Run pytest instead.") from None
        return done.stdout if done.returncode == 0 else None
