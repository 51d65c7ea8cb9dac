"""Each setting is shown with its source, and without secrets."""

from pathlib import Path

import pytest

from kernel.ext.inspection.described import describe
from kernel.settings import ModuleSettings, Settings, Sources
from tests.core.test_settings import PRODUCTION, SECRET, load, write


def test_the_command_settings_lists_sources_and_masks_secrets(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env", "LOG_LEVEL=INFO")
    shown = {one.name: one for one in describe(load(tmp_path, PRODUCTION))}
    assert (shown["LOG_LEVEL"].value, shown["LOG_LEVEL"].origin) == ("INFO", "env_files/.env")
    assert shown["DATABASE_URL"].origin == "environment"
    assert shown["LOG_FORMAT"].origin == "default"
    assert SECRET not in str(shown)


class _Addressed(ModuleSettings):
    address: str = ""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://AKIA:sesame/with/slash@bucket/prefix", "s3://**********@bucket/prefix"),
        ("https://account.example/container?sv=1&sig=sesame", "https://account.example/container?**********"),
        ("amqp://me:sesame@a,amqp://me:sesame@b", "amqp://**********@b"),
        ("https://account.example/container", "https://account.example/container"),
        ("me@example.com?", "me@example.com?"),
    ],
)
def test_credentials_in_an_address_are_not_shown(tmp_path: Path, given: str, shown: str) -> None:
    settings = Settings.load(Sources.read(tmp_path, {"THINGS_ADDRESS": given}), {"things": _Addressed})
    [setting] = [one for one in describe(settings) if one.name == "THINGS_ADDRESS"]
    assert setting.value == shown
