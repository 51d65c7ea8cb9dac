"""Secrets that are empty or copied from an example stop the start in UAT and PROD."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field, SecretStr

from kernel.settings import ModuleSettings, Settings, SettingsError, Sources

POSTGRESQL = "postgresql://app:correct-horse-battery@db/app"
ISSUER = {"AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "api"}


@pytest.mark.parametrize("environment", ["local", "dev", "uat", "prod"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "postgresql://u:change-me@h/d"),
        ("DATABASE_URL", "postgresql://u:change%2Dme@h/d"),
        ("DATABASE_PASSWORD", ""),
    ],
    ids=["an example", "an example, encoded", "an empty secret"],
)
def test_uat_and_prod_refuse_an_unsafe_secret(tmp_path: Path, environment: str, variable: str, value: str) -> None:
    variables = {"ENVIRONMENT": environment, "DATABASE_URL": POSTGRESQL, **ISSUER, variable: value}
    sources = Sources.read(tmp_path, variables)
    if environment in {"local", "dev"}:
        assert Settings.load(sources, {}).application.environment == environment
        return
    with pytest.raises(SettingsError) as raised:
        Settings.load(sources, {})
    assert [fault.name for fault in raised.value.faults] == [variable]


class _Keyring(BaseModel):
    secret: SecretStr
    label: str = "example"


class _Nested(ModuleSettings):
    options: dict[str, SecretStr] = Field(default_factory=dict)
    tokens: tuple[SecretStr, ...] = ()
    keyring: _Keyring | None = None


@pytest.mark.parametrize(
    ("variable", "value", "faulty"),
    [
        ("THINGS_OPTIONS", '{"secret_access_key": "change-me"}', "THINGS_OPTIONS__SECRET_ACCESS_KEY"),
        ("THINGS_OPTIONS__TOKEN", "todo", "THINGS_OPTIONS__TOKEN"),
        ("THINGS_TOKENS", '["9f8e7d6c", "change-me"]', "THINGS_TOKENS"),
        ("THINGS_KEYRING", '{"secret": "change-me"}', "THINGS_KEYRING__SECRET"),
        ("THINGS_OPTIONS", '{"secret_access_key": "9f8e7d6c", "bucket": "test", "region": "example-1"}', ""),
        ("THINGS_KEYRING", '{"secret": "9f8e7d6c"}', ""),
    ],
)
def test_an_example_secret_is_found_at_any_depth(tmp_path: Path, variable: str, value: str, faulty: str) -> None:
    variables = {"ENVIRONMENT": "prod", "DATABASE_URL": POSTGRESQL, **ISSUER, variable: value}
    sources = Sources.read(tmp_path, variables)
    if not faulty:
        assert Settings.load(sources, {"things": _Nested}).modules
        return
    with pytest.raises(SettingsError) as raised:
        Settings.load(sources, {"things": _Nested})
    assert [fault.name for fault in raised.value.faults] == [faulty]
