"""The settings of the shared store."""

from pathlib import Path

import pytest

from kernel.settings import SettingsError
from kernel.testing import settings_for

UAT = {"ENVIRONMENT": "uat", "DATABASE_URL": "sqlite:///data", "AUTH_ENABLED": "false"}


def test_an_example_password_in_a_query_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    with pytest.raises(SettingsError, match="- STORE_URL: "):
        settings_for(tmp_path, UAT | {"STORE_URL": "redis://h/0?password=change-me"})
