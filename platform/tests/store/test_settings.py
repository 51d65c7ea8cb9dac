"""The settings of the shared store."""

import sys
from pathlib import Path

import pytest

from kernel.settings import SettingsError
from kernel.testing import settings_for

UAT = {"ENVIRONMENT": "uat", "DATABASE_URL": "sqlite:///data", "AUTH_ENABLED": "false"}


def test_an_example_password_in_a_query_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    with pytest.raises(SettingsError, match="- STORE_URL: "):
        settings_for(tmp_path, UAT | {"STORE_URL": "redis://h/0?password=change-me"})


def test_a_store_without_its_extra_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SettingsError, match=r"STORE_URL: needs the package redis: install platform-kernel\[store\]"):
        settings_for(tmp_path, {"STORE_URL": "redis://h/0"})
