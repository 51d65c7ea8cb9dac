"""docs/architecture.md lists the files that a request enters with all extensions."""

from pathlib import Path

from tests.core.files_of_a_request import documented, trace


def test_the_page_lists_the_files_that_a_request_enters_with_all_extensions(tmp_path: Path) -> None:
    assert trace(tmp_path, with_extensions=True) == (documented(3), documented(4))
