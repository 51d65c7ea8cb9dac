"""The measurement of the claims: its computations, and its clients on a real socket."""

import asyncio
import json
from pathlib import Path

import pytest

from bench.claims.connections import Turn, summary
from bench.claims.crowd import Outcome, Plan, crowd, request, status_of
from bench.claims.processes import environment
from bench.claims.reporting import Finding, interleaved, markdown, table, verdict, write_json

FINDING = Finding("it is fast", "how fast", "1 ms | 2 ms", "partly", {"seconds": 0.001})


def turn(answered: int, seconds: float, mib: float) -> Turn:
    return Turn(Outcome({200: answered}, seconds, answered), cpu_seconds=1, peak_mib=mib)


# The report


def test_a_table_has_aligned_columns_and_no_cell_breaks_it() -> None:
    assert table(("claim", "what", "figure", "holds?"), [FINDING]).splitlines() == [
        "| claim      | what     | figure       | holds? |",
        "|------------|----------|--------------|--------|",
        r"| it is fast | how fast | 1 ms \| 2 ms | partly |",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert markdown(("a",), []) == "| a |\n|---|"


def test_the_file_for_programs_has_the_findings_and_what_they_depend_on(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "claims.json", [FINDING], quick=True)
    written = json.loads((tmp_path / "results" / "claims.json").read_text())
    assert written["quick"] is True
    assert written["findings"][0]["values"] == {"seconds": 0.001}
    assert {"fastapi", "sqlalchemy"} <= written["libraries"].keys()


@pytest.mark.parametrize(
    ("fulfilled", "expected"), [((True, True), "yes"), ((True, False), "partly"), ((False, False), "no")]
)
def test_a_claim_holds_partly_if_only_some_of_its_parts_hold(fulfilled: tuple[bool, ...], expected: str) -> None:
    assert verdict(*fulfilled) == expected


def test_contestants_take_turns_and_change_their_order() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = interleaved(3, {"a": lambda: run("a"), "b": lambda: run("b")})
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert figures == {"a": [1, 4, 5], "b": [2, 3, 6]}


# 10,000 connections


def test_ten_thousand_answers_in_time_and_memory_fulfil_the_claim() -> None:
    found = summary({"kernel": [turn(10_000, 3.9, 299)], "bare": [turn(10_000, 9, 900)]}, 10_000)
    assert found.holds == "yes"
    assert "10,000 of 10,000 answered" in found.figure


@pytest.mark.parametrize(
    ("turns", "count", "expected"),
    [
        ([turn(10_000, 4.1, 299)], 10_000, "partly"),
        ([turn(10_000, 4.1, 301)], 10_000, "no"),
        ([turn(9_999, 3, 200)], 10_000, "no"),
        ([turn(1_000, 1, 100)], 1_000, "partly"),
        ([turn(10_000, 3, 200), turn(10_000, 3, 301)], 10_000, "partly"),
    ],
)
def test_late_large_missing_or_fewer_answers_do_not_fulfil_the_claim(
    turns: list[Turn], count: int, expected: str
) -> None:
    assert summary({"kernel": turns, "bare": [turn(count, 1, 1)]}, count).holds == expected


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", None),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", 304),
    ],
)
def test_an_answer_counts_when_it_is_complete(answer: bytes, status: int | None) -> None:
    assert status_of(answer) == status


@pytest.mark.integration
async def test_clients_keep_their_connections_and_count_their_responses() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await _head(reader):
            if head.startswith(b"GET /drop "):
                break
            status = 200 if head.startswith(b"GET /found ") else 404
            writer.write(b"HTTP/1.1 %d -\r\ncontent-length: 2\r\n\r\nok" % status)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plan = Plan(port, connections=2, requests=(request("/found"), request("/lost")), per_connection=4)
    outcome = await asyncio.to_thread(crowd, plan)
    assert (outcome.statuses, outcome.most_open, connections) == ({200: 4, 404: 4}, 2, 2)
    dropped = await asyncio.to_thread(crowd, Plan(port, connections=1, requests=(request("/drop"),)))
    assert dropped.statuses == {0: 1}
    server.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def test_a_measured_process_does_not_see_the_settings_of_the_developer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@elsewhere/theirs")
    variables = environment(tmp_path, ENVIRONMENT="prod")
    assert "DATABASE_URL" not in variables
    assert variables["ENVIRONMENT"] == "prod"
    assert Path(variables["SECRETS_DIR"]).is_dir()
