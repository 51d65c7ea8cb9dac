"""Parameters of database URLs that would fail or have no effect stop the start."""

from pathlib import Path

import pytest
import trustme

from tests.core.test_database_url import fault, load

_BASE = "postgresql://app:correct-horse@db:5432/app"


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_READ_URL", "EVENTS_DATABASE_URL"])
@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("sslmode=on", "invalid sslmode: use one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("channel_binding=require", "channel_binding=require"),
        ("gssencmode=require", "gssencmode"),
        ("keepalives_idle=30", "the parameter keepalives_idle, which is not supported. Supported are"),
        ("statement_timeout=5000", "options=-c"),
        ("sslmode=require&sslmode=disable", "sslmode more than once"),
        ("target_session_attrs=any-will-do", "invalid target_session_attrs: use one of"),
        ("sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("sslnegotiation=direct", "sslnegotiation=direct, which needs sslmode=require"),
        ("sslkey=/nowhere/key.pem", "sslkey without sslcert"),
        ("sslmode=require&sslcert=/nowhere/cert.pem", "/nowhere/cert.pem (No such file or directory)"),
        ("sslmode=verify-full&sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem (No such file or directory)"),
        ("sslmode=verify-full", "sslmode=verify-full but no sslrootcert"),
    ],
)
def test_an_unsupported_parameter_is_a_settings_error(
    tmp_path: Path, variable: str, parameters: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    message = fault(tmp_path, **{variable: f"{_BASE}?{parameters}"})
    assert f"- {variable}: has " in message
    assert reason in message
    assert "correct-horse" not in message


def test_a_file_without_a_certificate_is_a_settings_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    message = fault(tmp_path, DATABASE_URL=f"{_BASE}?sslmode=verify-ca&sslrootcert={broken}")
    assert f"{broken} (" in message


def test_certificates_that_can_be_read_are_accepted(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    parameters = f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem&channel_binding=prefer&application_name=shop"
    assert load(tmp_path, DATABASE_URL=f"{_BASE}?{parameters}").database.get_url().host == "db"


@pytest.mark.parametrize("url", ["sqlite:///data?sslmode=require", "sqlite:///data?pool_size=3"])
def test_an_unknown_parameter_of_sqlite_is_refused(tmp_path: Path, url: str) -> None:
    assert "which SQLite does not support" in fault(tmp_path, DATABASE_URL=url)
