"""Which modules run here and which are called in other processes, and which settings stop the start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.ext.remote.extension import Remote
from kernel.modules.discovery import DiscoveryError
from kernel.runtime import Kernel
from kernel.settings import SettingsError
from kernel.testing import project_for
from tests.core.keys import key_pair
from tests.core.project import imported_alone, write_project
from tests.remote.two_sides import FILES, SECRET

DEV = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": "sqlite:///data"}
AT = {"PRICES_URL": "http://prices:8000"}
KEY = {"INTERNAL_SECRET": SECRET}
PRIVATE, PUBLIC = key_pair()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    with imported_alone():
        yield write_project(tmp_path, FILES)


def modules(shop: Path, variables: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the modules that run here, and those in other processes."""
    kernel = Kernel(*project_for(shop, variables))
    return [module.name for module in kernel.modules], [*kernel.get(Remote).channel.compared]


@pytest.mark.parametrize(
    ("variables", "here", "asked"),
    [
        ({}, ["prices", "shop"], []),
        (AT, ["shop"], ["prices"]),
        (AT | {"ENABLED_MODULES": "shop"}, ["shop"], ["prices"]),
        (AT | {"ENABLED_MODULES": "shop,prices"}, ["prices", "shop"], []),
        (AT | {"ENABLED_MODULES": "prices"}, ["prices"], []),
        ({"SHOP_URL": "http://shop"}, ["prices"], []),
        (AT | {"PRICES_DATABASE_URL": "nonsense", "PRICES_STORAGE": "what only prices knows"}, ["shop"], ["prices"]),
        (AT | DEV | KEY, ["shop"], ["prices"]),
    ],
)
def test_a_module_with_an_address_is_called_there_unless_it_is_enabled(
    shop: Path, variables: dict[str, str], here: list[str], asked: list[str]
) -> None:
    assert modules(shop, variables) == (here, asked)


def test_of_a_module_elsewhere_only_the_contract_is_loaded(shop: Path) -> None:
    for file in ("service", "module", "models", "settings"):
        (shop / f"modules/prices/{file}.py").write_text("raise RuntimeError('loaded')")
    assert modules(shop, AT) == (["shop"], ["prices"])


def test_without_an_address_the_error_names_both_remedies(shop: Path) -> None:
    with pytest.raises(DiscoveryError, match=r"add it, or set its address \(PRICES_URL=http://\.\.\.\)"):
        modules(shop, {"ENABLED_MODULES": "shop"})


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (AT | DEV, "PRICES_URL: needs INTERNAL_SECRET (or INTERNAL_PRIVATE_KEY)"),
        ({"PRICES_URL": "prices:8000"}, "PRICES_URL: is not an address like http://images:8000"),
        ({"PRICES_URL": "ftp://prices"}, "PRICES_URL: is not an address"),
        ({"PRICES_URL": "http://:8000"}, "PRICES_URL: is not an address"),
        ({"PRICES_URL": "http://prices:port"}, "PRICES_URL: Port could not be cast"),
        ({"PRICES_URL": "http://me:hunter2@prices"}, "PRICES_URL: must not contain a user, password or query"),
        ({"PRICES_URL": "http://prices?a=b"}, "PRICES_URL: must not contain a user, password or query"),
        ({"PRICES_URL": "prices", "ENABLED_MODULES": "shop,prices"}, "PRICES_URL: is not an address"),
        ({"INTERNAL_SECRET": "hunter2"}, "INTERNAL_SECRET: must have at least 32 characters"),
        ({"INTERNAL_SECRET": f"{SECRET},hunter2"}, "INTERNAL_SECRET: must have at least 32 characters"),
        ({"INTERNAL_PRIVATE_KEY": "hunter2"}, "INTERNAL_PRIVATE_KEY: is no Ed25519 key in PEM"),
        ({"INTERNAL_PRIVATE_KEY": PUBLIC}, "INTERNAL_PRIVATE_KEY: is no Ed25519 key in PEM"),
        ({"INTERNAL_PUBLIC_KEYS": PRIVATE}, "INTERNAL_PUBLIC_KEYS: is no Ed25519 key in PEM"),
        (
            {"INTERNAL_PUBLIC_KEYS": "-----BEGIN PUBLIC KEY-----\\naGk=\\n-----END PUBLIC KEY-----"},
            "INTERNAL_PUBLIC_KEYS: is no Ed25519 key in PEM",
        ),
        ({"INTERNAL_SECRETS": SECRET}, "INTERNAL_SECRETS: (from test) is not a setting. Did you mean INTERNAL_SECRET?"),
    ],
)
def test_invalid_settings_stop_the_start_and_show_no_secret(shop: Path, variables: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        modules(shop, variables)
    assert fault in str(caught.value)
    assert "hunter2" not in str(caught.value)


TWICE = """
from kernel import Contract, Module
class A(Contract):
    async def get(self) -> int: raise NotImplementedError
class B(Contract):
    async def get(self) -> int: raise NotImplementedError
module = Module(owner="team", provides={A: None, B: None})
"""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"twice/module.py": TWICE},
            "modules/twice provides get in two contracts with the same address, /internal/contracts/",
        ),
        (
            {"spy/router.py": "from fastapi import APIRouter\nrouter = APIRouter(prefix='/internal/contracts')"},
            "modules/spy has the prefix /internal/contracts",
        ),
    ],
)
def test_collisions_below_internal_stop_the_start(shop: Path, files: dict[str, str], said: str) -> None:
    write_project(shop, files)
    with pytest.raises(DiscoveryError) as caught:
        modules(shop, {})
    assert said in str(caught.value)


@pytest.mark.parametrize("environment", ["uat", "prod"])
def test_an_example_secret_after_a_valid_one_is_refused(tmp_path: Path, environment: str) -> None:
    variables = {"ENVIRONMENT": environment, "INTERNAL_SECRET": f"{'9f8e7d6c' * 4}, {'change-me-' * 4}"}
    with pytest.raises(SettingsError, match="- INTERNAL_SECRET: "):
        project_for(write_project(tmp_path, {}), variables)
