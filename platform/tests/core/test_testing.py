"""The support for the tests of a module: modules that run alone, and fakes that obey their contract."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from kernel.modules.contracts import Contract, ContractError, ContractUnavailable
from kernel.modules.discovery import DiscoveryError, contracts_of
from kernel.testing import Fake, FakeMisused, Fakes, booted
from kernel.testing.booting import Dependencies
from tests.core.project import MANIFEST, imported_alone, write_project


class Price(BaseModel):
    """The price of a thing, in cents."""

    cents: int
    words: list[str] = []


class Unknown(ContractError):
    """There is no such thing.

    It is defined beside the contract, so that callers can catch it.
    """

    thing: str


class Prices(Contract):
    """A contract with one method of each kind."""

    async def of(self, thing: str, amount: int = 1) -> Price:
        raise NotImplementedError

    async def largest(self) -> Price | None:
        raise NotImplementedError

    async def change(self, price: Price) -> None:
        raise NotImplementedError


class Both:
    """A fake, and the client that a module gets of it."""

    def __init__(self) -> None:
        self.fakes = Fakes([Prices])
        self.fake: Fake = self.fakes[Prices]
        port = self.fakes.clients()[Prices]
        assert isinstance(port, Prices)
        self.port = port


@pytest.fixture
def prices() -> Both:
    return Both()


async def test_a_fake_gives_the_defined_answer_and_records_calls(prices: Both) -> None:
    prices.fake.of.answers(Price(cents=3))
    assert await prices.port.of("tea") == Price(cents=3)
    assert await prices.port.of(thing="tea", amount=2) == Price(cents=3)
    assert prices.fake.of.calls == [{"thing": "tea", "amount": 1}, {"thing": "tea", "amount": 2}]
    prices.fakes.verify()


async def test_a_function_can_compute_the_answer(prices: Both) -> None:
    async def later(price: Price) -> None:
        assert price.cents == 2

    prices.fake.of.does(lambda thing, amount: Price(cents=len(thing) * amount))
    prices.fake.change.does(later)
    assert (await prices.port.of("tea", 2)).cents == 6
    await prices.port.change(Price(cents=2))
    with pytest.raises(AssertionError, match="3 == 2"):
        await prices.port.change(Price(cents=3))
    with pytest.raises(TypeError, match="amount"):
        prices.fake.of.does(lambda thing: Price(cents=1))


async def test_values_are_passed_as_copies(prices: Both) -> None:
    answer, asked = Price(cents=1), Price(cents=2)
    prices.fake.of.answers(answer)
    first = await prices.port.of("tea")
    first.words.append("changed by whoever asked")
    answer.words.append("changed by the test")
    assert (await prices.port.of("tea")).words == []
    await prices.port.change(asked)
    asked.words.append("changed after asking")
    assert prices.fake.change.calls == [{"price": Price(cents=2)}]


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        (("tea", "2"), {}, "Prices.of: amount is '2'"),
        ((Price(cents=1),), {}, "Prices.of: thing is Price"),
        ((), {}, "missing a required argument: 'thing'"),
        (("tea",), {"colour": "green"}, "unexpected keyword argument 'colour'"),
    ],
)
async def test_an_invalid_call_fails_as_over_a_network(
    prices: Both, arguments: tuple[object, ...], names: dict[str, object], message: str
) -> None:
    prices.fake.of.answers(Price(cents=3))
    with pytest.raises((FakeMisused, TypeError), match=message):
        await prices.port.of(*arguments, **names)  # type: ignore[arg-type]  # what a type checker would refuse
    with pytest.raises(FakeMisused, match=message):  # Even if the application turned it into a response.
        prices.fakes.verify()


BROKEN = Price.model_construct(cents=None)  # type: ignore[arg-type]  # a lie


@pytest.mark.parametrize("lie", [None, {"cents": 3}, BROKEN, 3], ids=["None", "a dict", "broken", "an int"])
async def test_a_fake_refuses_answers_that_its_contract_does_not_allow(prices: Both, lie: object) -> None:
    with pytest.raises(FakeMisused, match=r"Prices.of: its answer is"):
        prices.fake.of.answers(lie)
    prices.fake.of.does(lambda thing, amount: lie)
    with pytest.raises(FakeMisused, match=r"Prices.of: its answer is"):
        await prices.port.of("tea")


async def test_without_a_defined_answer_it_returns_none_or_fails_with_the_remedy(prices: Both) -> None:
    assert await prices.port.largest() is None
    await prices.port.change(Price(cents=1))
    with pytest.raises(FakeMisused) as caught:
        await prices.port.of("tea")
    assert "Prices.of(thing='tea', amount=1) has no answer" in str(caught.value)
    assert "fakes[Prices].of.answers(<" in str(caught.value)


async def test_a_fake_raises_only_errors_that_reach_the_caller(prices: Both) -> None:
    for error in (ContractUnavailable("down"), Unknown(thing="tea")):
        prices.fake.of.raises(error)
        with pytest.raises(type(error)):
            await prices.port.of("tea")
    prices.fakes.verify()
    with pytest.raises(FakeMisused, match="cannot raise KeyError: only ContractUnavailable and"):
        prices.fake.of.raises(KeyError("tea"))


def test_an_unknown_name_is_reported_with_the_known_ones(prices: Both) -> None:
    with pytest.raises(AttributeError, match=r"Prices has no method off\. It has: change, largest, of\."):
        _ = prices.fake.off
    with pytest.raises(LookupError, match=r"Contract is no fake here.*Fakes: Prices"):
        _ = prices.fakes[Contract]


# The shop calls prices, and prices call the weather. No module calls the tower, which cannot be imported.
WEATHER = "from kernel import Contract\nclass Weather(Contract):\n    async def is_fine(self) -> bool: ...\n"
PRICES = "from kernel import Contract\nclass Prices(Contract):\n    async def of(self, thing: str) -> int: ...\n"
PRICES_MODULE = """
from kernel import Module
from modules.prices.contract import Prices

class Answers(Prices):
    def __init__(self, session): ...
    async def of(self, thing): return 5

module = Module(owner="team", depends_on={"weather"}, provides={Prices: Answers})
"""
WEATHER_MODULE = """
from kernel import Module
from modules.weather.contract import Weather

class Answers(Weather):
    def __init__(self, session): ...
    async def is_fine(self): return True

module = Module(owner="team", provides={Weather: Answers})
"""
SHOP = """
from typing import Annotated
from fastapi import APIRouter
from kernel import public, use
from modules.prices.contract import Prices
router = APIRouter(dependencies=[public])

@router.get("/{thing}")
async def price(thing: str, prices: Annotated[Prices, use(Prices)]) -> int:
    return await prices.of(thing)
"""
FILES = {
    "shop/router.py": SHOP,
    "shop/module.py": MANIFEST.replace(")", ', depends_on={"prices"})'),
    "prices/contract.py": PRICES,
    "prices/module.py": PRICES_MODULE,
    "weather/contract.py": WEATHER,
    "weather/module.py": WEATHER_MODULE,
    "tower/module.py": "raise RuntimeError('not to be imported')",
}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    with imported_alone():
        yield write_project(tmp_path, FILES)


@pytest.mark.parametrize(
    ("dependencies", "running", "faked", "price"),
    [
        ("fakes", ["shop"], ["Prices"], 3),
        ("direct", ["prices", "shop"], ["Weather"], 5),
        ("all", ["weather", "prices", "shop"], [], 5),
    ],
)
async def test_a_module_boots_with_the_chosen_dependencies(
    shop: Path, dependencies: Dependencies, running: list[str], faked: list[str], price: int
) -> None:
    if dependencies == "all":
        (shop / "modules/tower/module.py").unlink()
        (shop / "modules/tower/__init__.py").unlink()
        (shop / "modules/tower").rmdir()
    variables = {"DATABASE_URL": f"sqlite:///{shop / 'data'}"}
    async with booted(shop, "shop", variables, dependencies) as (application, client, fakes):
        assert [module.name for module in application.kernel.modules] == running
        assert [contract.__name__ for contract in fakes] == faked
        if dependencies == "fakes":
            [fake] = fakes.values()
            fake.of.answers(3)
        assert (await client.get("/api/v1/shop/tea")).json() == price


async def test_a_call_without_a_defined_answer_fails_the_test_despite_a_500(shop: Path) -> None:
    with pytest.raises(FakeMisused, match=r"Prices.of\(thing='tea'\) has no answer"):
        async with booted(shop, "shop", {"DATABASE_URL": f"sqlite:///{shop / 'data'}"}) as (_, client, _fakes):
            assert (await client.get("/api/v1/shop/tea")).status_code == 500


async def test_an_unknown_module_is_reported_with_a_suggestion(shop: Path) -> None:
    with pytest.raises(DiscoveryError, match=r"there is no modules/shopp\. Did you mean shop\?"):
        async with booted(shop, "shopp", {"DATABASE_URL": f"sqlite:///{shop / 'data'}"}):
            pass


def test_contracts_are_found_in_a_package_too(shop: Path) -> None:
    folder = shop / "modules/weather"
    (folder / "contract.py").unlink()
    (folder / "contract").mkdir()
    (folder / "contract/__init__.py").touch()
    (folder / "contract/forecast.py").write_text(WEATHER)
    storms = (
        "from kernel import Contract, ContractError\nfrom .forecast import Weather\nclass Storm(ContractError): ...\n"
    )
    (folder / "contract/storms.py").write_text(storms)
    sys.path.insert(0, str(shop))  # Reverted together with the imports.
    [weather] = contracts_of(shop, "weather")
    assert weather.__name__ == "Weather"
    Fakes([weather])[weather].is_fine.raises(importlib.import_module("modules.weather.contract.storms").Storm())
    assert contracts_of(shop, "shop") == ()


CONFTEST = 'pytest_plugins = ["kernel.testing"]\n'
PYTEST_INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
STRANGER = """
import pytest

@pytest.mark.boots("shop")
async def test_alone(client, fakes, application):
    [fake] = fakes.values()
    fake.of.answers(3)
    assert (await client.get("/api/v1/shop/tea")).json() == 3

@pytest.mark.boots("shop", dependencies="direct")
async def test_direct(client):
    assert (await client.get("/api/v1/shop/tea")).json() == 5

@pytest.mark.boots("shop")
async def test_in_vain(client):
    assert (await client.get("/api/v1/shop/tea")).status_code == 500
"""


@pytest.mark.slow
def test_another_project_gets_the_fixtures_by_one_line(shop: Path) -> None:
    """In a process of its own: the project has only the kernel of this repository."""
    (shop / "tests").mkdir()
    (shop / "tests/conftest.py").write_text(CONFTEST)
    (shop / "tests/test_shop.py").write_text(STRANGER)
    (shop / "pytest.ini").write_text(PYTEST_INI)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-k", "sqlite"]
    done = subprocess.run(command, cwd=shop, capture_output=True, text=True, check=False)
    assert "3 passed, 3 deselected, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR tests/test_shop.py::test_in_vain[sqlite]" in done.stdout
    assert "Prices.of(thing='tea') has no answer" in done.stdout
