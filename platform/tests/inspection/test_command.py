"""`kernel modules` and `kernel settings`."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.core.commands import invoke
from tests.core.test_command import environment

pytestmark = pytest.mark.integration


def test_modules_are_shown_as_a_table_and_as_json(root: Path, tmp_path: Path) -> None:
    variables = environment(tmp_path)
    rows = json.loads(invoke(root, "modules", "--json", **variables).stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["health"] == {
        "name": "health",
        "owner": "platform-team",
        "depends_on": [],
        "provides": [],
        "prefix": "/health",
        "tables": ["incidents"],
        "url": None,
    }
    table = invoke(root, "modules", **variables).stdout
    assert all(row["owner"] in table for row in rows)


def test_settings_are_shown_with_their_origin_and_without_secrets(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "DATABASE_PASSWORD").write_text("hunter2\n")
    done = invoke(root, "settings", **environment(tmp_path, LOG_LEVEL="ERROR"))
    assert done.returncode == 0
    assert re.search(r"LOG_LEVEL\s*│ ERROR\s*│ environment", done.stdout)
    assert re.search(r"DATABASE_PASSWORD\s*│ \*+\s*│ .*secrets", done.stdout)
    for name, value in dotenv_values(root / "env_files" / ".env").items():
        assert re.search(rf"{name}\s*│ {re.escape(str(value))}\s*│ env_files/.env", done.stdout)
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"APPLICATION_VERSION\s*│ {re.escape(version)}\s*│ pyproject.toml", done.stdout)
    assert "hunter2" not in done.stdout
