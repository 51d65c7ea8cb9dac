"""The files that a request enters are few, and docs/architecture.md lists them."""

from pathlib import Path

from tests.core.files_of_a_request import documented, trace

REMEDY = "print the table for docs/architecture.md with: .venv/bin/python -m tests.core.files_of_a_request"


def test_the_page_lists_the_files_that_a_request_enters_without_extensions(tmp_path: Path) -> None:
    assert trace(tmp_path, with_extensions=False) == (documented(1), documented(2)), REMEDY


def test_without_extensions_a_request_enters_no_file_of_one() -> None:
    assert not {file for file in documented(1) | documented(2) if file.startswith("ext/")}
