"""Database URLs in the form of libpq: translated parameters, refused ones, and TLS to a real PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool, DatabaseUnavailable
from kernel.settings import DatabaseConfig, ModuleSettings, Settings, SettingsError, Sources
from tests.core.tls_proxy import TlsProxy, server_context, tls_proxy

_BASE = "postgresql://app:correct-horse@db:5432/app"


def load(root: Path, **variables: str) -> Settings:
    (root / "secrets").mkdir(exist_ok=True)
    sources = Sources.read(root, {"SECRETS_DIR": str(root / "secrets"), **variables})
    return Settings.load(sources, {"events": ModuleSettings})


def fault(root: Path, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(root, **variables)
    assert len(caught.value.faults) == 1
    return str(caught.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost")


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with the authority's certificate, another authority's, and a client's with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    client = authority.issue_cert("app@client.example", common_name="app")
    client.private_key_pem.write_to_path(folder / "key.pem")
    for blob in client.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    (folder / "broken.pem").write_text("not a certificate")
    return folder


@pytest.fixture(scope="module")
def database(new_database: Callable[[str], URL]) -> URL:
    return new_database("tls")


@pytest.fixture
async def proxy(database: URL, certificate: trustme.LeafCert) -> AsyncIterator[TlsProxy]:
    async with tls_proxy(database, server_context(certificate), refuses_plain=True) as proxy:
        yield proxy


def url_through(proxy: TlsProxy, database: URL, parameters: str, host: str = "localhost") -> str:
    return f"postgresql://{database.username}@{host}:{proxy.port}/{database.database}?{parameters}"


async def answered(url: str, statement: str = "SELECT 'yes'", **options: Any) -> str:
    """Return the database's result in a session of the kernel."""
    pool = AsyncDBPool(DatabaseConfig(url=url, **options))
    try:
        async with pool.database("events").read() as session:
            return str((await session.execute(text(statement))).scalar_one())
    finally:
        await pool.close()


# The parameters of the connection


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_every_ssl_mode_that_requests_tls_gets_it(proxy: TlsProxy, database: URL, files: Path, mode: str) -> None:
    root = f"&sslrootcert={files}/ca.pem" if mode.startswith("verify") else ""
    assert await answered(url_through(proxy, database, f"sslmode={mode}{root}")) == "yes"
    assert (len(proxy.encrypted), proxy.plain) == (1, 0)


async def test_a_server_that_requires_tls_refuses_sslmode_disable(proxy: TlsProxy, database: URL) -> None:
    with pytest.raises(DatabaseUnavailable):
        await answered(url_through(proxy, database, "sslmode=disable"))
    assert proxy.encrypted == []


async def test_without_tls_on_the_server_only_the_modes_that_do_not_need_it_connect(database: URL) -> None:
    async with tls_proxy(database, None) as proxy:
        for mode in ("disable", "allow", "prefer"):
            assert await answered(url_through(proxy, database, f"sslmode={mode}")) == "yes"
        with pytest.raises(DatabaseUnavailable):
            await answered(url_through(proxy, database, "sslmode=require"))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_of_another_authority_is_refused(proxy: TlsProxy, database: URL, files: Path, mode: str) -> None:
    url = url_through(proxy, database, f"sslmode={mode}&sslrootcert={files}/other.pem")
    with pytest.raises(DatabaseUnavailable):
        await answered(url)
    assert proxy.encrypted == []


async def test_only_verify_full_refuses_a_certificate_of_another_host(
    proxy: TlsProxy, database: URL, files: Path
) -> None:
    root = f"sslrootcert={files}/ca.pem"
    assert await answered(url_through(proxy, database, f"sslmode=verify-ca&{root}", "127.0.0.1")) == "yes"
    with pytest.raises(DatabaseUnavailable):
        await answered(url_through(proxy, database, f"sslmode=verify-full&{root}", "127.0.0.1"))


async def test_a_client_certificate_is_sent_to_the_server(
    database: URL, authority: trustme.CA, certificate: trustme.LeafCert, files: Path
) -> None:
    async with tls_proxy(database, server_context(certificate, clients=authority)) as proxy:
        with_certificate = f"sslmode=require&sslcert={files}/cert.pem&sslkey={files}/key.pem"
        assert await answered(url_through(proxy, database, with_certificate)) == "yes"
        assert "app" in str(proxy.encrypted[0])
        with pytest.raises(DatabaseUnavailable):
            await answered(url_through(proxy, database, "sslmode=require"))


async def test_the_environment_of_libpq_completes_the_url(
    proxy: TlsProxy, database: URL, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(files / "other.pem"))
    with pytest.raises(DatabaseUnavailable):
        await answered(url_through(proxy, database, ""))
    monkeypatch.setenv("PGSSLROOTCERT", str(files / "ca.pem"))
    assert await answered(url_through(proxy, database, "")) == "yes"
    assert await answered(url_through(proxy, database, "sslmode=verify-full")) == "yes"


@pytest.mark.parametrize(
    ("parameters", "statement", "answer"),
    [
        ("application_name=my%20app", "SHOW application_name", "my app"),
        ("fallback_application_name=other", "SHOW application_name", "other"),
        ("options=-c%20statement_timeout%3D5000%20-c%20work_mem%3D8MB", "SHOW statement_timeout", "5s"),
        ("target_session_attrs=read-write&connect_timeout=7", "SELECT 1", "1"),
        ("channel_binding=prefer&gssencmode=disable&client_encoding=UTF8", "SHOW client_encoding", "UTF8"),
        ("prepared_statement_cache_size=0", "SELECT 1", "1"),
    ],
)
async def test_a_parameter_reaches_the_server(database: URL, parameters: str, statement: str, answer: str) -> None:
    url = f"postgresql:///{database.database}?host={database.query['host']}&user={database.username}&{parameters}"
    assert await answered(url, statement) == answer


async def test_several_hosts_are_tried_in_turn(database: URL) -> None:
    async with tls_proxy(database, None) as proxy:
        hosts = f"127.0.0.1:{proxy.port + 1 if proxy.port < 65535 else 1},127.0.0.1:{proxy.port}"
        url = f"postgresql://{database.username}:x@{hosts}/{database.database}?target_session_attrs=primary"
        assert await answered(url) == "yes"


# The settings


def test_the_timeout_in_the_url_applies_to_all_connections(tmp_path: Path) -> None:
    assert load(tmp_path, DATABASE_URL=f"{_BASE}?connect_timeout=7").database.connect_timeout_seconds == 7
    assert load(tmp_path, DATABASE_URL=_BASE).database.connect_timeout_seconds == 2
    both = load(tmp_path, DATABASE_URL=f"{_BASE}?connect_timeout=7", DATABASE_CONNECT_TIMEOUT_SECONDS="3")
    assert both.database.connect_timeout_seconds == 3


def test_the_system_authorities_verify_the_host_as_well(tmp_path: Path) -> None:
    url = load(tmp_path, DATABASE_URL=f"{_BASE}?sslrootcert=system").database.get_url()
    assert "sslmode=verify-full" in str(url.query["dsn"])
    assert "system" not in str(url.query["dsn"])


def test_a_password_file_counts_as_a_password_in_production(tmp_path: Path) -> None:
    config = DatabaseConfig(environment="prod", url="postgresql://app@db/app?passfile=/run/pgpass")
    assert "passfile" in str(config.get_url().query["dsn"])


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_READ_URL", "EVENTS_DATABASE_URL"])
@pytest.mark.parametrize("seconds", ["0", "soon"])
def test_an_invalid_timeout_is_a_settings_error(tmp_path: Path, variable: str, seconds: str) -> None:
    message = fault(tmp_path, **{variable: f"{_BASE}?connect_timeout={seconds}"})
    assert f"- {variable}: has a connect_timeout that is not a number of seconds above 0" in message
    assert "correct-horse" not in message


def test_a_module_has_no_connect_timeout_of_its_own(tmp_path: Path) -> None:
    message = fault(tmp_path, EVENTS_DATABASE_URL=f"{_BASE}?connect_timeout=7")
    assert "DATABASE_CONNECT_TIMEOUT_SECONDS" in message


@pytest.mark.parametrize("url", ["postgresql://app:correct?horse=b@db/app", "postgresql://app:p@db:correct/app"])
def test_an_unescaped_password_is_not_shown(tmp_path: Path, url: str) -> None:
    message = fault(tmp_path, DATABASE_URL=url)
    assert "correct" not in message
    assert "horse" not in message
