"""The settings of bearer tokens that each environment refuses."""

from pathlib import Path

import pytest

from kernel.settings import Settings, SettingsError, Sources

ISSUER = {"AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "api"}
ENVIRONMENTS = ("local", "dev", "uat", "prod")
# The fault of each environment, by the variable that it names; "" where the setting is accepted.
REFUSALS = [
    ("no issuer", {"AUTH_ISSUER": ""}, ("", "AUTH_ISSUER", "AUTH_ISSUER", "AUTH_ISSUER")),
    ("no audience", {"AUTH_AUDIENCE": ""}, ("", "AUTH_AUDIENCE", "AUTH_AUDIENCE", "AUTH_AUDIENCE")),
    ("tokens over plain HTTP", {"AUTH_ISSUER": "http://id"}, ("", "", "AUTH_ISSUER", "AUTH_ISSUER")),
    ("a role without a list", {"AUTH_ROLES": '{"editor": "x"}'}, ("AUTH_ROLES",) * 4),
    ("shared keys", {"AUTH_ALGORITHMS": "HS256"}, ("AUTH_ALGORITHMS",) * 4),
    ("unsigned tokens", {"AUTH_ALGORITHMS": "RS256,none"}, ("AUTH_ALGORITHMS",) * 4),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(("what", "variables", "faulty"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_each_environment_refuses_unsafe_settings(
    tmp_path: Path, environment: str, what: str, variables: dict[str, str], faulty: tuple[str, ...]
) -> None:
    base = {"ENVIRONMENT": environment, "DATABASE_URL": "postgresql://app:correct-horse@db/app", **ISSUER}
    sources = Sources.read(tmp_path, base | variables)
    name = faulty[ENVIRONMENTS.index(environment)]
    if not name:
        assert Settings.load(sources, {}).application.environment == environment
        return
    with pytest.raises(SettingsError) as raised:
        Settings.load(sources, {})
    assert name in {fault.name for fault in raised.value.faults}
