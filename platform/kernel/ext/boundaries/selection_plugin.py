"""After a run of all tests, list the failures that the selection would have skipped."""

from collections.abc import Sequence

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with the selected folders and files."""
    parser.addoption("--selected", action="append", default=[], help="a folder or file of tests that would have run")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report in the process that collects the reports of all workers."""
    failed = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    missed = sorted({report.nodeid for report in failed if not _is_selected(report.nodeid, config)})
    if missed:
        terminalreporter.section("kernel test would have skipped these failures", red=True)
        for name in missed:
            terminalreporter.line(name)


def _is_selected(name: str, config: pytest.Config) -> bool:
    selected: Sequence[str] = config.getoption("--selected")
    return name.startswith(tuple(f"{path}{end}" for path in selected for end in ("/", "::")))
