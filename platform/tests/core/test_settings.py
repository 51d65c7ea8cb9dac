"""Layers, errors, secrets, and the table of differences between LOCAL, DEV, UAT and PROD."""

import shutil
from pathlib import Path

import pytest

from kernel.settings import DatabaseConfig, ModuleSettings, Settings, SettingsError, Sources

SECRET = "correct-horse-battery"
PRODUCTION = {"ENVIRONMENT": "prod", "DATABASE_URL": f"postgresql://app:{SECRET}@db/app"}


def load(root: Path, variables: dict[str, str] | None = None) -> Settings:
    secrets = root / "secrets"
    secrets.mkdir(exist_ok=True)
    sources = Sources.read(root, {"SECRETS_DIR": str(secrets), **(variables or {})})
    return Settings.load(sources, {"events": ModuleSettings}, extensions=())


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def faults(root: Path, variables: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(root, variables)
    return str(caught.value)


# The hierarchy


def test_each_layer_overrides_those_below_it(tmp_path: Path) -> None:
    seen = []
    for add in (
        lambda: None,
        lambda: write(tmp_path, "env_files/.env", "DATABASE_POOL_SIZE=1"),
        lambda: write(tmp_path, "env_files/.env.local", "DATABASE_POOL_SIZE=2"),
        lambda: write(tmp_path, "secrets/DATABASE_POOL_SIZE", "3"),
    ):
        add()
        seen.append(load(tmp_path).database.pool_size)
    seen.append(load(tmp_path, {"DATABASE_POOL_SIZE": "4"}).database.pool_size)
    assert seen == [5, 1, 2, 3, 4]


def test_only_the_file_of_the_environment_is_read(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env.dev", "LOG_LEVEL=ERROR")
    assert load(tmp_path).log.level == "DEBUG"
    assert load(tmp_path, {"ENVIRONMENT": "DEV", "DATABASE_URL": "sqlite:///x"}).log.level == "ERROR"


def test_the_environment_may_be_named_in_the_shared_file(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env", "ENVIRONMENT=dev\nDATABASE_URL=sqlite:///x\nAUTH_ENABLED=false")
    assert load(tmp_path).application.environment == "dev"


def test_a_file_that_contradicts_its_environment_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env.local", "ENVIRONMENT=prod")
    assert "env_files/.env.local" in faults(tmp_path, {})


def test_the_version_is_that_of_the_project_unless_it_is_set(tmp_path: Path) -> None:
    assert load(tmp_path).application.version == "0.0.0"
    write(tmp_path, "pyproject.toml", '[project]\nname = "shop"\nversion = "2.3.4"\n')
    settings = load(tmp_path)
    layer = settings.sources.origin("APPLICATION_VERSION")
    assert (settings.application.version, layer and layer.place) == ("2.3.4", "pyproject.toml")
    assert load(tmp_path, {"APPLICATION_VERSION": "2.3.4+build"}).application.version == "2.3.4+build"


@pytest.mark.parametrize("text", ["[project", "\udcff", "project = 1"])
def test_an_unreadable_project_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert "pyproject.toml: cannot be read" in faults(tmp_path, {})


@pytest.mark.parametrize("environment", ["local", "dev", "uat", "prod"])
def test_by_default_a_server_listens_on_loopback_in_every_environment(tmp_path: Path, environment: str) -> None:
    """Also with the environment files of this project: a deployment sets the host explicitly."""
    shutil.copytree(Path(__file__).parents[3] / "env_files", tmp_path / "env_files", ignore=lambda *_: [".env.local"])
    settings = load(tmp_path, PRODUCTION | {"ENVIRONMENT": environment})
    assert settings.server.host == "127.0.0.1"
    assert load(tmp_path, PRODUCTION | {"SERVER_HOST": "0.0.0.0"}).server.host == "0.0.0.0"  # noqa: S104


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env", "DATABASE_POOL_SIZE=7")
    assert load(tmp_path, {"DATABASE_POOL_SIZE": ""}).database.pool_size == 7


# Secret files


def test_a_kubernetes_mount_is_read_through_its_symlinks(tmp_path: Path) -> None:
    dated = tmp_path / "secrets" / "..2026_11_23"
    write(tmp_path, "secrets/..2026_11_23/DATABASE_PASSWORD", "x" * 8)
    (tmp_path / "secrets" / "..data").symlink_to(dated)
    (tmp_path / "secrets" / "DATABASE_PASSWORD").symlink_to("..data/DATABASE_PASSWORD")
    parts = {"DATABASE_HOST": "db", "DATABASE_USER": "app", "DATABASE_NAME": "app"}
    assert load(tmp_path, parts).database.get_url().password == "x" * 8


@pytest.mark.parametrize("text", ["s3cret\n", "s3cret\r\n", "﻿s3cret", "s3cret"])
def test_a_secret_loses_its_trailing_newline_and_byte_order_mark(tmp_path: Path, text: str) -> None:
    write(tmp_path, "secrets/database/password", text)
    password = load(tmp_path).database.password
    assert password is not None
    assert password.get_secret_value() == "s3cret"


def test_spaces_belong_to_a_secret(tmp_path: Path) -> None:
    write(tmp_path, "secrets/DATABASE_PASSWORD", " s3cret \n")
    password = load(tmp_path).database.password
    assert password is not None
    assert password.get_secret_value() == " s3cret "


def test_a_binary_secret_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "DATABASE_PASSWORD").write_bytes(b"\xff\xfe\x00")
    assert "secrets/DATABASE_PASSWORD" in faults(tmp_path, {})


def test_links_to_a_parent_of_a_secret_folder_are_refused(tmp_path: Path) -> None:
    """Followed, two of them in each folder would make 2**40 folders."""
    for name in ("one", "two"):
        (tmp_path / "secrets" / name).mkdir(parents=True)
    for folder in ("", "one", "two"):
        for name in ("one", "two"):
            (tmp_path / "secrets" / folder / f"link_{name}").symlink_to(tmp_path / "secrets" / name)
        (tmp_path / "secrets" / folder / "link_up").symlink_to(tmp_path / "secrets")
    message = faults(tmp_path, {})
    assert "secrets/link_up is a link to a folder that contains it" in message
    assert "secrets/link_one/link_two/link_one is a link to a folder that contains it" in message


def test_a_configured_secrets_folder_must_exist(tmp_path: Path) -> None:
    assert "SECRETS_DIR" in faults(tmp_path, {"SECRETS_DIR": str(tmp_path / "nowhere")})


# Errors


def test_all_problems_are_reported_at_once_without_values(tmp_path: Path) -> None:
    message = faults(
        tmp_path,
        {
            "ENVIRONMENT": "prod",
            "DATABASE_URL": f"mysql://app:{SECRET}@db/app",
            "DATABASE_POOL_SIZE": SECRET,
            "APPLICATION_DEBUG": "true",
            "EVENTS_MAX_BODY_BYTES": "-1",
            "LOG_FORMT": SECRET,
        },
    )
    for name in (
        "DATABASE_URL",
        "DATABASE_POOL_SIZE",
        "APPLICATION_DEBUG",
        "EVENTS_MAX_BODY_BYTES",
        "LOG_FORMT",
    ):
        assert f"- {name}: " in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
        ("EVENTS_DATABSE_URL", "EVENTS_DATABASE_URL"),
        ("ENVIROMENT", "ENVIRONMENT"),
        ("ENABLED_MODULE", "ENABLED_MODULES"),
    ],
)
def test_a_misspelled_variable_is_refused_with_a_suggestion(tmp_path: Path, misspelled: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in faults(tmp_path, {misspelled: "1"})
    write(tmp_path, "env_files/.env", f"{misspelled}=1")
    assert f"Did you mean {meant}?" in faults(tmp_path, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVENTS_SERVICE_HOST", "10.0.0.1"),
        ("EVENTS_SERVICE_PORT_HTTP", "80"),
        ("EVENTS_PORT", "tcp://10.0.0.1:80"),
        ("DATABASE_PORT", "tcp://10.0.0.1:5432"),
        ("DATABASE_PORT_5432_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ],
)
def test_variables_that_kubernetes_and_others_inject_are_ignored(tmp_path: Path, name: str, value: str) -> None:
    assert load(tmp_path, {name: value}).database.port == 5432


def test_a_url_and_parts_exclude_each_other(tmp_path: Path) -> None:
    assert "DATABASE_HOST" in faults(tmp_path, {"DATABASE_URL": "sqlite:///x", "DATABASE_HOST": "db"})


def test_parts_with_special_characters_make_a_valid_url(tmp_path: Path) -> None:
    variables = {
        "DATABASE_HOST": "db",
        "DATABASE_USER": "a@b",
        "DATABASE_PASSWORD": "p:/@#?%&",
        "DATABASE_NAME": "app",
    }
    config = load(tmp_path, variables).database
    assert config.get_database_url() == "postgresql+asyncpg://a%40b:p%3A%2F%40%23%3F%25%26@db:5432/app"
    assert config.get_url().password == "p:/@#?%&"


def test_a_config_can_be_created_from_keywords() -> None:
    assert DatabaseConfig(url="postgres://u:p@h/d").get_database_url() == "postgresql+asyncpg://u:p@h/d"


def test_a_dollar_in_a_file_is_a_dollar(tmp_path: Path) -> None:
    write(tmp_path, "env_files/.env", "APPLICATION_TITLE=a${HOME}b")
    assert load(tmp_path).application.title == "a${HOME}b"


# LOCAL, DEV, UAT, PROD

POSTGRESQL = f"postgresql://app:{SECRET}@db/app"
CELLS = {
    "debug": lambda s: s.application.debug,
    "auto-reload": lambda s: s.server.reload,
    "docs": lambda s: s.application.openapi_url is not None,
    "logs": lambda s: (s.log.format, s.log.level),
    "migrates": lambda s: s.application.migrates_at_start,
}
TABLE = {
    "debug": (True, True, False, False),
    "auto-reload": (True, False, False, False),
    "docs": (True, True, True, False),
    "logs": (("console", "DEBUG"), ("json", "INFO"), ("json", "INFO"), ("json", "INFO")),
    "migrates": (True, False, False, False),
}
ENVIRONMENTS = ("local", "dev", "uat", "prod")


@pytest.mark.parametrize("cell", TABLE)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_behaves_as_in_the_table(tmp_path: Path, cell: str, environment: str) -> None:
    settings = load(tmp_path, {"ENVIRONMENT": environment, "DATABASE_URL": POSTGRESQL})
    assert CELLS[cell](settings) == TABLE[cell][ENVIRONMENTS.index(environment)]


# The result in each environment: accepted (""), or an error that names the variable.
REFUSALS = [
    ("no database", {}, ("", "DATABASE_URL", "DATABASE_URL", "DATABASE_URL")),
    ("SQLite", {"DATABASE_URL": "sqlite:///data"}, ("", "", "", "DATABASE_URL")),
    ("SQLite of one module", {"EVENTS_DATABASE_URL": "sqlite:///x"}, ("", "", "", "EVENTS_DATABASE_URL")),
    ("debug", {"APPLICATION_DEBUG": "1"}, ("", "", "APPLICATION_DEBUG", "APPLICATION_DEBUG")),
    ("auto-reload", {"SERVER_RELOAD": "1"}, ("", "SERVER_RELOAD", "SERVER_RELOAD", "SERVER_RELOAD")),
    ("no password", {"DATABASE_URL": "postgresql://u@h/d"}, ("", "", "DATABASE_URL", "DATABASE_URL")),
    ("everybody may", {"AUTH_ENABLED": "false"}, ("", "", "AUTH_ENABLED", "AUTH_ENABLED")),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(("what", "variables", "faulty"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_each_environment_refuses_unsafe_settings(
    tmp_path: Path, environment: str, what: str, variables: dict[str, str], faulty: tuple[str, ...]
) -> None:
    base = {"ENVIRONMENT": environment} | ({} if what == "no database" else {"DATABASE_URL": POSTGRESQL})
    name = faulty[ENVIRONMENTS.index(environment)]
    if name:
        assert f"- {name}: " in faults(tmp_path, base | variables)
    else:
        assert load(tmp_path, base | variables).application.environment == environment


def test_a_socket_needs_no_password(tmp_path: Path) -> None:
    url = "postgresql://app@/app?host=/run/postgresql"
    assert load(tmp_path, {"ENVIRONMENT": "prod", "DATABASE_URL": url}).database.get_url().host is None
