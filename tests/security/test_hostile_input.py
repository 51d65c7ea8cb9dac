"""Hundreds of bad inputs over a real socket: none gets a 5xx, is repeated in an output, or harms the process."""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.modules.images.pictures import picture
from tests.security import corpus, corpus_headers, corpus_wire
from tests.security.corpus import Input
from tests.security.forms import upload
from tests.security.serving import Served, request, served

pytestmark = pytest.mark.slow

KINDS: dict[str, Callable[[], Iterable[Input]]] = {
    "bodies": corpus.bodies,
    "queries": corpus_wire.queries,
    "paths": corpus_wire.paths,
    "methods": corpus_wire.methods,
    "headers": corpus_headers.headers,
    "framing": corpus_headers.framing,
}


def test_there_are_at_least_three_hundred_inputs() -> None:
    names = [f"{kind}: {one.name}" for kind, make in KINDS.items() for one in make()]
    assert len(names) == len(set(names)), "two inputs have one name"
    assert len(names) >= 300


@pytest.mark.timeout(300)
def test_no_input_causes_a_server_error_or_is_repeated(root: Path, tmp_path: Path, empty_url: str) -> None:
    faults: list[str] = []
    sent: dict[str, str] = {}
    with served(root, tmp_path, empty_url) as server:
        for made in (upload("x.png", picture()), upload("y.png", picture()), _event()):
            assert server.send(made).statuses == (201,)
        for kind, make in KINDS.items():
            for one in make():
                secret = _secret()
                sent[secret] = f"{kind}: {one.name}"
                faults += [f"{sent[secret]}: {fault}" for fault in _try(server, one, secret)]
        assert server.is_alive()
        said = _said_until_the_end(server)
    faults += [f"{name}: logged" for secret, name in sent.items() if secret in said]
    print(f"{len(sent)} bad inputs: {len(faults)} faults")  # noqa: T201  # the figure
    assert not faults, "\n".join(faults)


def _event() -> bytes:
    return request("POST", corpus.EVENTS, {"Content-Type": corpus.JSON}, corpus.event().encode())


def _secret() -> str:
    return f"zecret{secrets.token_hex(8)}"[: len(corpus.SECRET)].ljust(len(corpus.SECRET), "0")


def _try(server: Served, one: Input, secret: str) -> list[str]:
    """Yield what is wrong with the server's treatment of the input."""
    parts = [part.replace(corpus.SECRET.encode(), secret.encode()) for part in one.parts]
    answer = server.send(*parts, cut=one.is_cut)
    faults = []
    if not answer.is_closed:
        faults.append("still open after the deadline")
    if not one.is_met_by(answer.statuses):
        faults.append(f"answered {answer.statuses}, not {one.expected}: {answer.body[:300]!r}")
    echoed = secret.encode() in answer.body and not _is_stored(answer.statuses)
    if echoed:
        faults.append(f"repeated: {answer.body[:300]!r}")
    if not server.is_alive():
        faults.append("the server is gone")
    return faults


def _said_until_the_end(server: Served) -> str:
    """Return the whole log after its last line, because lines about a request may follow its response."""
    last = _secret()
    server.send(request("GET", f"/{last}"))
    server.process.terminate()
    server.process.wait(30)
    assert last in server.log.read_text(), "the log does not contain the last requested path"
    return server.said()


def _is_stored(statuses: tuple[int, ...]) -> bool:
    """Return whether the event was created: then the response shows the stored values."""
    return statuses[:1] == (201,)
