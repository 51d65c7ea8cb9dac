"""The setting that sends every statement through SQLAlchemy."""

from pathlib import Path

import pytest

from kernel.database import Database
from kernel.ext.fast.session import FastDatabase
from kernel.runtime import Kernel
from kernel.testing import settings_for


@pytest.mark.parametrize(("value", "expected"), [("true", FastDatabase), ("false", Database)])
def test_the_driver_is_used_unless_the_setting_switches_it_off(
    tmp_path: Path, value: str, expected: type[Database]
) -> None:
    (tmp_path / "modules").mkdir()
    kernel = Kernel(settings_for(tmp_path, {"DATABASE_DIRECT_STATEMENTS": value}))
    assert kernel.pool.database_class is expected
