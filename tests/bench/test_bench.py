"""The parts of the benchmark that compute, without a database or a server."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from bench import lua
from bench.answers import comparable
from bench.apps.lists import decode_cursor, encode_cursor
from bench.apps.registry import APPS, AppSpec, Places, environment
from bench.data import EVENT_COLUMNS, EVENTS, POOL_START, event_rows, png
from bench.inprocess import Pace, Turn
from bench.load import run
from bench.report import Results
from bench.scenarios import PATCHED_ROWS, SCENARIOS, Recipe, recipe_for
from bench.served import Load
from bench.servers import Generator
from bench.statements import Statements, logged, sort_out
from bench.targets import Figures, Spread, Target, judge, ratios
from kernel.ext.messaging.settings import MessagingSettings
from kernel.settings import Settings, Sources
from modules.images.settings import ImagesSettings

MACHINE = {
    "date": "2030-01-01T00:00:00+00:00", "commit": "abc", "cpu": "a processor", "cores": 2, "pinned": True,
    "system": "Linux", "python": "3.11", "postgresql": "18", "libraries": {"fastapi": "1"},
}  # fmt: skip
OPTIONS = {"arguments": " --quick", "generator": "wrk"}


def turn(app: str, number: int, cpu_us: float) -> Turn:
    return Turn("read_one", app, number, cpu_us, cpu_us, 100, 1.0)


def load(app: str, number: int, per_second: float, *, failed: int = 0) -> Load:
    return Load("read_one", app, number, 1000, 1.0, per_second, 2.0, 9.0, failed, 0, 0, 100.0, 0.9, 0.0, 0)


def test_a_spread_has_the_smallest_the_median_and_the_largest() -> None:
    assert Spread.of([3, 1, 2]) == Spread(1, 2, 3)
    assert Spread.of([4, 1, 2, 3]) == Spread(1, 2.5, 4)
    assert Spread.of([]) is None


def test_ratios_are_formed_round_by_round() -> None:
    figures = {("read_one", "ours"): [30.0, 60.0], ("read_one", "control"): [100.0, 200.0]}
    assert ratios(figures, "read_one", "ours", "control") == Spread(0.3, 0.3, 0.3)


def test_a_round_without_a_figure_has_no_ratio() -> None:
    figures: Figures = {("read_one", "ours"): [None, 60.0], ("read_one", "control"): [100.0, 200.0]}
    assert ratios(figures, "read_one", "ours", "control") == Spread(0.3, 0.3, 0.3)
    assert ratios(figures, "read_one", "ours", "template") is None


def test_a_target_is_compared_with_the_median_of_all_rounds() -> None:
    target = Target("read_one", "read one", "ours", "control", 1, most_cpu=0.30, least_rate=3.5)
    cpu = {("read_one", "ours"): [25.0, 29.0, 90.0], ("read_one", "control"): [100.0] * 3}
    rates = {("read_one", "ours"): [340.0], ("read_one", "control"): [100.0]}
    sent = {"read_one": {"ours": Statements(1, 0, 0)}}
    assert [verdict.reached for verdict in judge(cpu, rates, sent, [target])] == [True, False, True]


def test_a_ping_or_an_unwanted_transaction_misses_the_target_of_one_statement() -> None:
    target = Target("read_one", "read one", "ours", "control", 1)
    for sent in (Statements(1, 0, 1), Statements(1, 2, 0), Statements(2, 0, 0)):
        assert [verdict.reached for verdict in judge({}, {}, {"read_one": {"ours": sent}}, [target])] == [False]
    assert judge({}, {}, {}, [target])[0].reached is None


@pytest.mark.parametrize("app", [app for app in APPS.values() if app.is_ours], ids=lambda app: app.name)
def test_no_relay_polls_beside_the_requests_whose_statements_are_counted(app: AppSpec, tmp_path: Path) -> None:
    places = Places("postgresql://db/app", *[tmp_path] * 5)
    settings = Settings.load(Sources.read(tmp_path, environment(app, places)), {"images": ImagesSettings})
    assert not settings.group(MessagingSettings).relay


def test_statements_are_read_from_the_log_once_each_and_counted_by_kind() -> None:
    log = (
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.011 ms  statement: BEGIN;\n"
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.200 ms  parse __asyncpg_stmt_1__: SELECT a\n"
        "\tFROM t WHERE id = $1\n"
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.101 ms  bind __asyncpg_stmt_1__: SELECT a\n"
        "\tFROM t WHERE id = $1\n"
        "2030-01-01 00:00:00.000 UTC [7] DETAIL:  Parameters: $1 = '1'\n"
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.020 ms  execute __asyncpg_stmt_1__: SELECT a\n"
        "\tFROM t WHERE id = $1\n"
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.003 ms  bind __asyncpg_stmt_2__: ;\n"
        "2030-01-01 00:00:00.000 UTC [7] LOG:  duration: 0.011 ms  statement: ROLLBACK;\n"
    )
    assert sort_out(logged(log)) == Statements(data=1, transaction=2, pings=1)
    assert str(Statements(1, 2, 1)) == "1 + 2 tx + 1 ping"
    assert str(Statements(20, 40, 0).per_request(20)) == "1 + 2 tx"


def test_the_figures_are_found_in_the_output_of_wrk() -> None:
    output = (
        "Running 1s test @ http://127.0.0.1:8000\n  1 threads and 64 connections\n"
        '{"requests": 100, "seconds": 1.010000, "p50_ms": 2.500, "p99_ms": 9.000, "failed": 0}\n'
    )
    assert lua.result_of(output)["p99_ms"] == 9


def test_an_output_without_figures_is_quoted_in_the_error() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        lua.result_of("unable to connect to 127.0.0.1:8000 Connection refused\n")


def test_a_recipe_uses_its_values_in_turn() -> None:
    recipe = Recipe("GET", "/things/{}", ["1", "2"])
    assert [recipe.request(number)[1] for number in range(3)] == ["/things/1", "/things/2", "/things/1"]


def test_each_round_over_the_same_rows_expects_their_next_version() -> None:
    recipe = Recipe("PATCH", "/things/{}", first=10, count=2, if_match=True)
    asked = [recipe.request(number) for number in range(4)]
    assert [(target, headers["If-Match"]) for _, target, headers, _ in asked] == [
        ("/things/10", '"1"'), ("/things/11", '"1"'), ("/things/10", '"2"'), ("/things/11", '"2"'),
    ]  # fmt: skip


def test_a_recipe_survives_json_with_all_its_bytes() -> None:
    recipe = recipe_for(SCENARIOS["upload"], 1)
    copy = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert copy.request(0) == recipe.request(0)
    assert png() in copy.request(0)[3]


def test_no_request_of_a_turn_deletes_a_deleted_row() -> None:
    scenario = SCENARIOS["delete"]
    recipe = recipe_for(scenario, 500)
    targets = {recipe.request(number)[1] for number in range(500)}
    assert len(targets) == scenario.rows_for(500) == 500
    assert SCENARIOS["patch"].rows_for(10**9) == PATCHED_ROWS


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_scenario_names_known_applications_and_has_a_recipe(name: str) -> None:
    scenario = SCENARIOS[name]
    assert set(scenario.apps) <= set(APPS)
    recipe = recipe_for(scenario, 10, cursors=["abc"])
    assert recipe.request(0)[1].startswith(("/health/live", "/api/v1/"))
    assert "{}" not in recipe.request(0)[1]


def test_a_script_contains_every_byte_of_a_body_as_lua_reads_it() -> None:
    script = lua.script(Recipe("POST", "/things", body='a"\\\n\xff'))
    assert 'local body = "a\\034\\092\\010\\255"' in script


def test_a_script_counts_as_its_recipe_does() -> None:
    script = lua.script(Recipe("PATCH", "/things/{}/x", first=10, count=5, if_match=True))
    assert "local first = 10\n" in script
    assert 'local before = "/things/"\n' in script
    assert "local if_match = true\n" in script


@asynccontextmanager
async def serving(heard: list[str]) -> AsyncIterator[int]:
    """Provide a server that answers every request with success and records its request line, If-Match and body."""
    handlers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(field.split(": ", 1) for field in fields if field)
                body = await reader.readexactly(int(headers.get("Content-Length", "0")))
                heard.append(f"{line} {headers.get('If-Match')} {body!r}")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.wait_for(asyncio.gather(*handlers), 5)


def expected(recipe: Recipe, count: int) -> list[str]:
    asked = (recipe.request(number) for number in range(count))
    return [f"{method} {path} HTTP/1.1 {headers.get('If-Match')} {body!r}" for method, path, headers, body in asked]


ASKED = (
    Recipe("PATCH", "/things/{}", first=2_000_000_000, count=3, headers={"X": "y"}, body="\xff\n", if_match=True),
    Recipe("GET", "/things?cursor={}", ["abc", "def"]),
)


@pytest.mark.integration
@pytest.mark.parametrize("recipe", ASKED)
async def test_the_generator_in_python_makes_the_recipes_requests(recipe: Recipe) -> None:
    heard: list[str] = []
    async with serving(heard) as port:
        figures = await run(recipe, f"127.0.0.1:{port}", 1, 0.2)
    assert heard[:7] == expected(recipe, 7)
    assert lua.result_of(json.dumps(figures)) == figures
    assert figures["requests"] > 0
    assert figures["failed"] == figures["broken"] == figures["late"] == 0


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("recipe", ASKED)
async def test_wrk_makes_the_recipes_requests(recipe: Recipe, tmp_path: Path) -> None:
    heard: list[str] = []
    async with serving(heard) as port:
        figures = await Generator(tmp_path, may_use_wrk=True).run(recipe, port, 1, connections=1)
    assert heard[:7] == expected(recipe, 7)
    assert figures["requests"] > 0
    assert figures["failed"] == figures["broken"] == figures["late"] == 0


def test_answers_are_compared_byte_for_byte_except_for_values_that_differ_between_runs() -> None:
    def answer(id_: int, time: str, title: str) -> dict[str, object]:
        body = f'{{"id":{id_},"title":"{title}","created_at":"{time}"}}'
        return {"status": 201, "headers": {"location": f"/api/v1/events/{id_}"}, "body": body}

    one, other = answer(1, "2030", "a"), answer(2, "2031", "a")
    assert comparable(one, masks_ids=True) == comparable(other, masks_ids=True)
    assert comparable(one, masks_ids=False) != comparable(other, masks_ids=False)
    assert comparable(one, masks_ids=True) != comparable(answer(1, "2030", "b"), masks_ids=True)


def test_a_cursor_decodes_to_its_position() -> None:
    row = dict(zip(EVENT_COLUMNS, next(event_rows(1, 1)), strict=True))
    place = (row["date"], row["time"], row["id"])
    assert decode_cursor(encode_cursor(*place)) == place


def test_the_rows_are_the_same_in_every_run() -> None:
    assert list(event_rows(1, 50)) == list(event_rows(1, 50))
    assert EVENTS < POOL_START


def test_a_machine_that_was_slow_during_a_turn_is_noticed() -> None:
    pace = Pace(most_repeats=1)
    assert pace.slowness([[10, 10], [10, 10.1]]) == pytest.approx(1.01)
    assert pace.slowness([[10, 10], [10, 15]]) == pytest.approx(1.5)
    assert pace.slowness([[13, 13], [10, 10]]) == pytest.approx(1.3)


def test_the_report_shows_ratios_and_targets() -> None:
    results = Results(MACHINE, OPTIONS)
    results.turns = [turn("control", 0, 1000), turn("ours", 0, 290), turn("limit", 0, 100)]
    results.loads = [load("control", 0, 1000), load("ours", 0, 3400)]
    results.statements = {"read_one": {"ours": Statements(1, 0, 0)}}
    lines = [" ".join(line.split()) for line in results.markdown().splitlines()]
    assert "| read one | ours | 290 | 0.29 | 2.90 | 1 |" in lines
    assert "| read one | CPU / control | ≤ 0.30 | 0.29 | reached |" in lines
    assert "| read one | requests/s / control | ≥ 3.5 | 3.40 | **missed** |" in lines


def test_a_load_with_errors_does_not_count_as_a_success() -> None:
    results = Results(MACHINE, OPTIONS)
    results.loads = [load("control", 0, 1000), load("ours", 0, 9000, failed=3)]
    assert "**errors 3 of 1000**" in results.markdown()
    assert "9000" not in results.markdown()
    assert results.rates["read_one", "ours"] == [None]


def test_the_results_are_json() -> None:
    results = Results(MACHINE, OPTIONS, turns=[turn("ours", 0, 290)], loads=[load("ours", 0, 3400)])
    results.memory = {"ours": (100.0, None)}
    assert json.loads(json.dumps(results.as_dict()))["in_process"][0]["cpu_us"] == 290
