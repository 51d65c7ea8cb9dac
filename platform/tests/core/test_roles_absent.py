"""Settings that require roles stop the start without an extension that provides them."""

from pathlib import Path

import pytest

from kernel.settings import Settings, SettingsError, Sources


def test_roles_without_the_extension_stop_the_start(tmp_path: Path) -> None:
    sources = Sources.read(tmp_path, {"DATABASE_ROLE_PER_MODULE": "true"})
    with pytest.raises(SettingsError, match=r"DATABASE_ROLE_PER_MODULE: .* is a setting of the extension roles"):
        Settings.load(sources, {}, extensions=())
