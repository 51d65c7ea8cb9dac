"""Without an extension that authenticates callers, an application that needs it does not start."""

from pathlib import Path

import pytest

from kernel.runtime import Kernel
from kernel.settings import Settings, SettingsError, Sources
from tests.core.project import write_project


@pytest.mark.parametrize("enabled", ["true", "false"])
async def test_authentication_needs_an_extension(tmp_path: Path, enabled: str) -> None:
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}", "AUTH_ENABLED": enabled}
    sources = Sources.read(write_project(tmp_path, {}), variables)
    kernel = Kernel(Settings.load(sources, {}, extensions=()), modules=(), extensions=())
    if enabled == "false":
        async with kernel.running():
            return
    with pytest.raises(SettingsError, match="AUTH_ENABLED: is on, and no extension in use authenticates callers"):
        async with kernel.running():
            pass
