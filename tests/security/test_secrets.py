"""No secret appears in logs, errors, tracebacks, commands, responses or arguments, whatever fails."""

import os
import pickle
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from kernel.ext.inspection.described import describe
from kernel.settings import Settings, SettingsError
from kernel.testing import settings_for
from tests.core.commands import invoke
from tests.faults.harness import KERNEL
from tests.modules.images.pictures import picture
from tests.security.forms import upload
from tests.security.serving import Served, request, served

SECRET = "hunter2hunter2hunter2hunter2hunter2"
# No server listens on port 9.
SECRETS = {
    "DATABASE_PASSWORD": SECRET,
    "DATABASE_READ_URL": f"postgresql://reader:{SECRET}@127.0.0.1:9/app",
    "EVENTS_DATABASE_URL": f"postgresql://events:{SECRET}@127.0.0.1:9/events",
    "EVENTS_DATABASE_READ_URL": f"postgresql://events:{SECRET}@127.0.0.1:9/events",
    "INTERNAL_SECRET": SECRET,
    "MESSAGING_BROKER_URL": f"nats://relay:{SECRET}@127.0.0.1:9",
    "STORE_URL": f"redis://:{SECRET}@127.0.0.1:9/0",
    "IMAGES_STORAGE_URL": "s3://pictures",
    "IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY": SECRET,
    "IMAGES_STORAGE_OPTIONS__ACCESS_KEY_ID": SECRET,
    "IMAGES_STORAGE_OPTIONS__ENDPOINT": "http://127.0.0.1:9",
}
PARTS = {"DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": "9", "DATABASE_USER": "app", "DATABASE_NAME": "app"}
FAILING: dict[str, Mapping[str, str]] = {
    "no database": {},
    "an unknown host name": {"DATABASE_HOST": "db.invalid"},
    "a socket that is not there": {"DATABASE_HOST": "/nowhere"},
    "a port of letters": {"SERVER_PORT": SECRET},
    "a URL that is none": {"EVENTS_DATABASE_URL": SECRET},
    "a URL of another kind": {"EVENTS_DATABASE_URL": f"mysql://a:{SECRET}@b/c"},
    "a URL with a port of letters": {"EVENTS_DATABASE_URL": f"postgresql://a:b@c:{SECRET}/d"},
    "a replica that is none": {"DATABASE_READ_URL": f"{SECRET}://{SECRET}"},
    "a key that is none": {"INTERNAL_PRIVATE_KEY": SECRET},
    "a broker of another kind": {"MESSAGING_BROKER_URL": f"{SECRET}://a:{SECRET}@b"},
    "a store of another kind": {"STORE_URL": f"{SECRET}://a:{SECRET}@b"},
    "options that are no JSON": {"IMAGES_STORAGE_OPTIONS": SECRET},
    "a misspelled variable": {"INTERNAL_SECRETS": SECRET},
    "an unsafe environment": {"ENVIRONMENT": "prod"},
}


def run(root: Path, command: str, variables: Mapping[str, str]) -> str:
    """Run a command and return its output."""
    environment = {**os.environ, **PARTS, **SECRETS, "LOG_LEVEL": "DEBUG", "SERVER_RELOAD": "false", **variables}
    done = subprocess.run([KERNEL, command], cwd=root, env=environment, capture_output=True, check=False, timeout=60)
    return (done.stdout + done.stderr).decode(errors="replace")


def run_here(root: Path, command: str, variables: Mapping[str, str]) -> str:
    """Run a command in this process and return its output."""
    done = invoke(root, command, **{**PARTS, **SECRETS, "LOG_LEVEL": "DEBUG", **variables})
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILING)
@pytest.mark.parametrize("command", ["serve", "settings"])
def test_a_command_that_fails_shows_no_secret(root: Path, command: str, failure: str) -> None:
    said = run(root, command, {"SERVER_PORT": "0", "LOG_FORMAT": "console", **FAILING[failure]})
    said += run(root, "migrate", {}) if failure == "no database" else ""
    assert said
    assert SECRET not in said


@pytest.mark.parametrize("command", ["settings", "modules", "roles"])
def test_a_command_that_succeeds_shows_no_secret(root: Path, command: str) -> None:
    said = run_here(root, command, {})
    assert "image" in said.lower() or "role" in said.lower()
    assert SECRET not in said


@pytest.fixture
def settings(root: Path) -> Settings:
    return settings_for(root, {**PARTS, **SECRETS})


def test_settings_do_not_show_their_secrets(settings: Settings) -> None:
    assert settings.modules["images"].model_dump()["storage_options"]["secret_access_key"].get_secret_value() == SECRET
    groups = [getattr(settings, name) for name in vars(settings) if name not in {"modules", "sources", "elsewhere"}]
    groups += settings.modules.values()
    shown = [repr(settings), str(settings), repr(settings.sources), f"{settings.sources.layers}"]
    for group in groups:
        shown += [repr(group), str(group)]
        if hasattr(group, "model_dump_json"):
            shown.append(group.model_dump_json())
    shown += [f"{one.name}={one.value}" for one in describe(settings)]
    shown.append(repr(settings.database.get_url()))
    for text in shown:
        assert SECRET not in text


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that runs, but cannot reach any of the systems for which it has secrets."""
    folder = tmp_path_factory.mktemp("secrets")
    known = {name: value for name, value in SECRETS.items() if "DATABASE" not in name}
    with served(root, folder, f"sqlite:///{folder / 'data'}", **known, APPLICATION_DEBUG="true") as started:
        yield started


@pytest.mark.integration
def test_a_server_shows_no_secret_in_answers_logs_or_arguments(server: Served) -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "Cookie": f"a={SECRET}", "Proxy-Authorization": SECRET}
    for path in ("/health", "/health/ready", "/openapi.json", "/docs", "/nowhere", "/internal/contracts", "/metrics"):
        for given in ({}, headers):
            assert SECRET.encode() not in server.send(request("GET", path, given)).body
    assert SECRET.encode() not in server.send(upload("x.png", picture()), seconds=60).body
    arguments = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"serve" in arguments
    assert SECRET.encode() not in arguments
    assert "image storage unavailable" in server.log.read_text()
    assert SECRET not in server.log.read_text()


def test_errors_of_settings_do_not_contain_their_values(root: Path) -> None:
    with pytest.raises(Exception, match="EVENTS_DATABASE_URL") as caught:
        settings_for(root, {"EVENTS_DATABASE_URL": SECRET})
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error)
        assert SECRET.encode() not in pickle.dumps(error.args)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_the_password_of_the_compose_file_is_refused_in_production(root: Path) -> None:
    compose = yaml.safe_load((root / "compose.yaml").read_text())
    password = compose["services"]["database"]["environment"]["POSTGRES_PASSWORD"]
    production = {"ENVIRONMENT": "prod", "AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "api"}
    with pytest.raises(SettingsError, match="DATABASE_URL: is an example secret"):
        settings_for(root, {**production, "DATABASE_URL": f"postgresql://app:{password}@database/app"})


@pytest.mark.parametrize(
    "url", [f"s3://AKIA:{SECRET}@pictures", "s3://AKIA:hunter2/hunter2/hunter2@pictures", f"gs://:{SECRET}@pictures/a"]
)
def test_credentials_in_the_address_of_the_storage_are_refused_and_not_shown(root: Path, url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings_for(root, {"IMAGES_STORAGE_URL": url})
    [fault] = raised.value.faults
    assert (fault.name, "IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY" in fault.problem) == ("IMAGES_STORAGE_URL", True)
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in run_here(root, "settings", {"IMAGES_STORAGE_URL": url})


@pytest.mark.parametrize("url", ["s3://pictures", "abfss://pictures@account.dfs.core.windows.net/a", "data/images"])
def test_an_address_of_the_storage_without_credentials_is_accepted(root: Path, url: str) -> None:
    settings = settings_for(root, {"IMAGES_STORAGE_URL": url}).modules["images"]
    assert settings.storage_url == url  # type: ignore[attr-defined]  # its own
