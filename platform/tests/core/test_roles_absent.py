"""Roles that the settings ask for and no extension gives stop the start."""

from pathlib import Path

import pytest

from kernel.runtime import Kernel
from kernel.settings import SettingsError
from kernel.testing import settings_for
from tests.core.project import write_project


async def test_roles_without_the_extension_stop_the_start(tmp_path: Path) -> None:
    settings = settings_for(write_project(tmp_path, {}), {"DATABASE_ROLE_PER_MODULE": "true"})
    kernel = Kernel(settings, extensions=())
    with pytest.raises(SettingsError, match="DATABASE_ROLE_PER_MODULE"):
        async with kernel.running():
            pass
