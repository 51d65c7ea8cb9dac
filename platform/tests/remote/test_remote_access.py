"""Only processes of the application can call /internal: every other call is refused."""

import base64
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from structlog.testing import capture_logs

from kernel.ext.remote.settings import InternalSettings
from kernel.ext.remote.signing import CallRefused, CallSigner, UsedTokens
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, Reply
from tests.core.keys import key_pair
from tests.remote.two_sides import SECRET, Forward, Sides, two_sides

pytestmark = pytest.mark.integration

OF = "/internal/contracts/prices/of"
BODY = b'{"thing":"tea"}'


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[Sides]:
    async with two_sides(tmp_path) as sides:
        yield sides


@pytest.fixture
async def callee(sides: Sides) -> AsyncIterator[httpx2.AsyncClient]:
    async with talking_to(sides.callee) as client:
        yield client


def tokens(**changes: Any) -> CallSigner:
    return CallSigner(InternalSettings(**{"environment": "dev", "secret": SECRET} | changes))


def signed(
    signer: CallSigner | None = None,
    module: str = "prices",
    subject: str = "prices/of",
    body: bytes = BODY,
    lives: float = 5,
) -> dict[str, str]:
    token = (signer or tokens()).sign(module, subject, body, time.time() + lives)
    return {"Authorization": f"Bearer {token}"}


def forged(**claims: Any) -> dict[str, str]:
    """Return a token with the right secret and these claims; None omits a claim."""
    good = jwt.decode(signed()["Authorization"][7:], SECRET, ["HS256"], audience="prices")
    chosen = {name: value for name, value in (good | claims).items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(chosen, SECRET, 'HS256')}"}


def verify(callee: CallSigner, token: str) -> None:
    callee.accept(callee.authenticate(token, "prices", "prices/of"), BODY)


REFUSED: dict[str, Any] = {
    "unsigned": dict,
    "no token at all": lambda: {"Authorization": "Bearer "},
    "another scheme": lambda: {"Authorization": signed()["Authorization"].replace("Bearer", "Basic")},
    "no JWT": lambda: {"Authorization": "Bearer a.b.c"},
    "another secret": lambda: signed(tokens(secret="x" * 32)),
    "expired": lambda: signed(lives=-3),
    "for another module": lambda: signed(module="images"),
    "for another method": lambda: signed(subject="prices/largest"),
    "for another body": lambda: signed(body=b'{"thing":"gold"}'),
    "issued in the future": lambda: forged(iat=int(time.time()) + 60),
    "lives for ever": lambda: forged(exp=int(time.time()) + 3600),
    **{
        f"without {name}": lambda name=name: forged(**{name: None})
        for name in ("exp", "iat", "aud", "jti", "body", "sub")
    },
    "unsigned, and says so": lambda: {"Authorization": f"Bearer {jwt.encode({'aud': 'prices'}, '', 'none')}"},
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED.keys())
async def test_a_token_for_another_call_is_refused(sides: Sides, callee: httpx2.AsyncClient, headers: Any) -> None:
    answer = await callee.post(OF, content=BODY, headers=headers())
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert sides.done == []


async def test_a_token_is_refused_the_second_time(sides: Sides, callee: httpx2.AsyncClient) -> None:
    headers = signed()
    assert [(await callee.post(OF, content=BODY, headers=headers)).status_code for _ in range(3)] == [200, 401, 401]
    assert len(sides.done) == 1


async def test_a_duplicated_request_has_no_effect_and_the_answer_arrives(tmp_path: Path) -> None:
    duplicates: list[Reply | Drop] = []

    async def twice(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        duplicates.append(await forward(call))
        return answer

    async with two_sides(tmp_path, twice) as sides:
        duplicates.clear()
        assert (await sides.prices.of("tea", 1)).cents == 3
        [duplicate] = duplicates
        assert isinstance(duplicate, Reply)
        assert (duplicate.status, len(sides.done)) == (401, 1)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/internal/"), ("GET", "/internal/contracts"), ("GET", "/internal/openapi.json"), ("POST", "/internal/no"),
     ("POST", "/internal/contracts/prices"), ("POST", "/internal/contracts/prices/nothing"), ("DELETE", OF)],
)  # fmt: skip
async def test_no_path_below_internal_answers_unsigned_calls(
    callee: httpx2.AsyncClient, method: str, path: str
) -> None:
    assert (await callee.request(method, path)).status_code == 401


async def test_signed_calls_get_the_reason_of_a_refusal(callee: httpx2.AsyncClient) -> None:
    missing = signed(subject="prices/nothing", body=b"{}")
    answer = await callee.post("/internal/contracts/prices/nothing", content=b"{}", headers=missing)
    assert answer.status_code == 404
    wrong = b'{"thing":3,"what":1}'
    answer = await callee.post(OF, content=wrong, headers=signed(body=wrong))
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.thing", "body"]
    large = b" " * (1 << 20) + b"{}"
    assert (await callee.post(OF, content=large, headers=signed(body=large))).status_code == 413


ODD: list[Any] = [None, 7, "x", [], {}, [[]], {"$ref": "#"}, {"$ref": 7}, {"$ref": "#/nowhere"}]


def broken(part: Any, depth: int = 4) -> Iterator[Any]:
    """Yield every description that differs from a valid one by an invalid value in one place."""
    yield from ODD
    if isinstance(part, dict) and depth:
        for name, value in part.items():
            yield from ({**part, name: one} for one in broken(value, depth - 1))
            yield {key: one for key, one in part.items() if key != name}


async def test_a_malformed_description_that_is_signed_is_refused(callee: httpx2.AsyncClient) -> None:
    listed = await callee.get("/internal/contracts", headers=signed(module="internal", subject="contracts", body=b""))
    described = listed.json()["prices"]
    name = next(iter(described))
    described[name]["fingerprint"] = "another"
    statuses = set()
    for one in [*broken(described), *({name: {"fingerprint": "x", "description": odd}} for odd in ODD)]:
        body = json.dumps(one).encode()
        headers = signed(subject="prices", body=body)
        answer = await callee.post("/internal/contracts/prices", content=body, headers=headers)
        statuses.add(answer.status_code)
    assert statuses == {200, 400, 422}


@pytest.mark.parametrize("headers", [dict, lambda: forged(body=None), lambda: signed(subject="prices/largest")])
async def test_the_body_of_a_call_is_read_after_its_token_is_verified(sides: Sides, headers: Any) -> None:
    """A caller without a key could otherwise occupy memory and connections with slow bodies."""
    sent: list[Any] = []
    fields = {"host": "test", "transfer-encoding": "chunked", **headers()}
    scope = {
        "type": "http", "method": "POST", "path": OF, "raw_path": OF.encode(), "query_string": b"", "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()], "root_path": "",
        "http_version": "1.1", "server": ("test", 80), "client": ("192.0.2.1", 1),
    }  # fmt: skip

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    await sides.callee(scope, receive, send)
    assert sent[0]["status"] == 401
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_used_token_is_refused_without_reading_the_body() -> None:
    callee, token = tokens(), signed()["Authorization"][7:]
    verify(callee, token)
    with pytest.raises(CallRefused, match="used before"):
        callee.authenticate(token, "prices", "prices/of")


async def test_a_token_with_another_body_is_not_used_up() -> None:
    """Otherwise a caller that saw a token could invalidate the call for which it was signed."""
    callee, token = tokens(), signed()["Authorization"][7:]
    with pytest.raises(CallRefused, match="not the one that was signed"):
        callee.accept(callee.authenticate(token, "prices", "prices/of"), b"{}")
    verify(callee, token)


async def test_refused_calls_count_against_the_overall_limit_and_signed_ones_do_not(tmp_path: Path) -> None:
    async with (
        two_sides(tmp_path, callee={"RATE_LIMIT_OVERALL": "3/day"}) as sides,
        talking_to(sides.callee) as callee,
    ):
        signed_calls = [(await callee.post(OF, content=BODY, headers=signed())).status_code for _ in range(5)]
        refused = [(await callee.post(OF, content=BODY)).status_code for _ in range(5)]
        assert (signed_calls, refused) == ([200] * 5, [401, 401, 401, 429, 429])
        assert (await callee.get("/no/such/route")).status_code == 429, "the caller has used up the limit everywhere"
        assert (await callee.post(OF, content=BODY, headers=signed())).status_code == 200


async def test_the_log_of_a_refused_call_holds_the_beginning_of_a_long_path(callee: httpx2.AsyncClient) -> None:
    with capture_logs() as logs:
        await callee.post(f"/internal/contracts/{'x' * 20_000}")
    [refused] = [entry for entry in logs if entry["event"] == "internal call refused"]
    assert refused["path"] == f"/internal/contracts/{'x' * 236}..."


@pytest.mark.parametrize(("late_seconds", "status"), [(-5, 200), (1, 200), (3, 504)])
async def test_a_call_after_its_deadline_and_the_leeway_is_refused(
    callee: httpx2.AsyncClient, late_seconds: float, status: int
) -> None:
    headers = signed() | {"X-Deadline": str(time.time() - late_seconds)}
    assert (await callee.post(OF, content=BODY, headers=headers)).status_code == status


@pytest.mark.parametrize("deadline", ["soon", "nan", "inf", ""])
async def test_an_invalid_deadline_is_refused(callee: httpx2.AsyncClient, deadline: str) -> None:
    answer = await callee.post(OF, content=BODY, headers=signed() | {"X-Deadline": deadline})
    assert answer.status_code == 400


async def test_the_deadline_of_an_unsigned_call_is_ignored(sides: Sides) -> None:
    answer = await sides.shop.get("/api/v1/shop/tea", headers={"X-Deadline": "1"})
    assert answer.status_code == 200


async def test_without_a_key_every_call_is_refused(tmp_path: Path) -> None:
    async with two_sides(tmp_path, callee={"INTERNAL_SECRET": ""}) as sides, talking_to(sides.callee) as callee:
        answer = await callee.post(OF, content=BODY, headers=signed())
        assert answer.status_code == 401
        assert sides.done == []


@pytest.mark.parametrize(("given", "status"), [({}, 200), ({"INTERNAL_SECRET": SECRET}, 401)])
async def test_in_local_calls_are_unsigned_only_while_no_key_is_set(
    tmp_path: Path, given: dict[str, str], status: int
) -> None:
    local = {"ENVIRONMENT": "local", "INTERNAL_SECRET": ""} | given
    async with two_sides(tmp_path, callee=local, caller=local) as sides, talking_to(sides.callee) as callee:
        assert (await callee.post(OF, content=BODY)).status_code == status
        assert (await sides.prices.of("tea", 1)).cents == 3, "both sides agree"


def test_a_secret_can_be_changed_step_by_step_without_a_refused_call() -> None:
    new = "n" * 32
    steps = [f"{SECRET}", f"{SECRET}, {new}", f"{new},{SECRET}", new]
    for one, next_ in itertools.pairwise(steps):
        for caller, callee in ((one, next_), (next_, one)):
            token = tokens(secret=caller).sign("prices", "prices/of", BODY, time.time() + 5)
            assert token is not None
            verify(tokens(secret=callee), token)


def test_with_key_pairs_only_callers_with_a_known_public_key_are_accepted() -> None:
    (private, public), (_, other), (stranger, _) = key_pair(), key_pair(), key_pair()
    callee = tokens(secret=None, public_keys=f"{other}{public}".replace("\n", "\\n"))
    for key, is_known in ((private, True), (stranger, False)):
        token = tokens(secret=None, private_key=key).sign("prices", "prices/of", BODY, time.time() + 5)
        assert token is not None
        if is_known:
            verify(callee, token)
        else:
            with pytest.raises(CallRefused, match="Signature verification failed"):
                verify(callee, token)


def test_a_public_key_cannot_be_used_as_a_shared_secret() -> None:
    _, public = key_pair()
    claims = {"aud": "prices", "sub": "prices/of", "iat": 0, "exp": 2**31, "jti": "x", "iss": "x", "body": "x"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, claims)]
    signature = hmac.digest(public.strip().encode(), b".".join(parts), "sha256")
    token = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
    with pytest.raises(CallRefused, match="alg value is not allowed"):
        verify(tokens(secret=None, public_keys=public), token)


@pytest.mark.parametrize("first", [0.0, 0.5, 0.99])
def test_used_tokens_are_remembered_as_long_as_they_are_valid(monkeypatch: pytest.MonkeyPatch, first: float) -> None:
    now = 1000.0
    monkeypatch.setattr("kernel.ext.remote.signing.time.monotonic", lambda: now)
    used = UsedTokens(1)
    assert used.is_new("another")
    now += first
    assert used.is_new("a")
    for _ in range(100):
        now += 0.01
        assert not used.is_new("a")
        used.is_new("another")
    now += 2
    assert used.is_new("a"), "used tokens are forgotten after their time"


def test_more_calls_than_can_be_remembered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.ext.remote.signing._MOST_REMEMBERED", 3)
    used = UsedTokens(60)
    assert all(used.is_new(str(number)) for number in range(3))
    with pytest.raises(CallRefused, match="too many calls"):
        used.is_new("4")
