"""The origins that each environment allows and refuses."""

from pathlib import Path

import pytest

from kernel.ext.cors.extension import Cors
from kernel.ext.cors.settings import CorsSettings
from kernel.settings import Settings, SettingsError, Sources

ENVIRONMENTS = ("local", "dev", "uat", "prod")


def load(root: Path, environment: str, variables: dict[str, str]) -> Settings:
    base = {"ENVIRONMENT": environment, "DATABASE_URL": "postgresql://app:correct-horse@db/app"}
    return Settings.load(Sources.read(root, base | variables), {}, extensions=(Cors,))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_only_local_allows_every_origin_by_default(tmp_path: Path, environment: str) -> None:
    settings = load(tmp_path, environment, {}).group(CorsSettings)
    assert settings.allow_origins == (("*",) if environment == "local" else ())
    assert not settings.allow_credentials


# The fault of each environment, by the variable that it names; "" where the setting is accepted.
REFUSALS = [
    ("any origin", {"CORS_ALLOW_ORIGINS": "*"}, ("", "", "", "CORS_ALLOW_ORIGINS")),
    (
        "any origin with credentials",
        {"CORS_ALLOW_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "1"},
        ("CORS_ALLOW_CREDENTIALS", "CORS_ALLOW_CREDENTIALS", "CORS_ALLOW_CREDENTIALS", "CORS_ALLOW_ORIGINS"),
    ),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(("what", "variables", "faulty"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_each_environment_refuses_what_is_unsafe_in_it(
    tmp_path: Path, environment: str, what: str, variables: dict[str, str], faulty: tuple[str, ...]
) -> None:
    name = faulty[ENVIRONMENTS.index(environment)]
    if not name:
        assert load(tmp_path, environment, variables)
        return
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, environment, variables)
    assert [fault.name for fault in raised.value.faults] == [name]
