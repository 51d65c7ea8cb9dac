"""Accepted and refused tokens: a real provider on a socket, and many kinds of invalid tokens (OWASP API2:2023)."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kernel.ext.bearer_tokens import jwks as keys
from kernel.testing import booted
from tests.core.https_server import Drop, Hang, Reply
from tests.core.waiting import until
from tests.security.provider import AUDIENCE, CONFIGURATION, KEYS, Provider

pytestmark = pytest.mark.integration

# The route needs the scope health:read.
PATH = "/health/incidents"
LEEWAY = 5


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with provider.server:
        yield provider


@asynccontextmanager
async def application(
    root: Path, folder: Path, provider: Provider, **variables: str
) -> AsyncIterator[httpx2.AsyncClient]:
    known = {
        "DATABASE_URL": f"sqlite:///{folder / 'data'}",
        "AUTH_ENABLED": "true",
        "AUTH_ISSUER": provider.issuer,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_CLOCK_LEEWAY_SECONDS": str(LEEWAY),
        "AUTH_ROLES": '{"operator": ["health:read"]}',
    }
    async with booted(root, "health", known | variables) as app:
        yield app.client


@pytest.fixture
async def client(root: Path, tmp_path: Path, provider: Provider) -> AsyncIterator[httpx2.AsyncClient]:
    async with application(root, tmp_path, provider) as client:
        yield client


async def ask(client: httpx2.AsyncClient, token: str | None, path: str = PATH) -> httpx2.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await client.get(path, headers=headers)


def encoded(part: Any) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed_with_the_public_key(provider: Provider) -> str:
    """Return a token that is signed with the public key as a shared secret, a classic attack."""
    public = provider.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    content = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{encoded(provider.claims(scope='health:read'))}"
    return f"{content}.{encoded(hmac.new(public, content.encode(), hashlib.sha256).digest())}"


def unsigned(provider: Provider, algorithm: str) -> str:
    return f"{encoded({'alg': algorithm, 'kid': 'first'})}.{encoded(provider.claims(scope='health:read'))}."


def with_other_claims(provider: Provider) -> str:
    head, _, signature = provider.token(scope="").split(".")
    return f"{head}.{encoded(provider.claims(scope='health:read'))}.{signature}"


def by_a_stranger(provider: Provider, **headers: Any) -> str:
    stranger = generate_private_key(65537, 2048)
    named = {"kid": "first"} | headers
    return jwt.encode(provider.claims(scope="health:read"), stranger, "RS256", headers=named)


def by_a_key_in_the_header(provider: Provider) -> str:
    stranger = generate_private_key(65537, 2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key()))
    claims = provider.claims(scope="health:read")
    return jwt.encode(claims, stranger, "RS256", headers={"kid": "first", "jwk": jwk})


def now() -> int:
    return int(time.time())


Made = Callable[[Provider], str]
BAD: dict[str, Made] = {
    "no algorithm": lambda p: unsigned(p, "none"),
    "no algorithm, in capitals": lambda p: unsigned(p, "NONE"),
    "no signature": lambda p: unsigned(p, "RS256"),
    "a shared key made of the public one": signed_with_the_public_key,
    "an algorithm that is not allowed": lambda p: jwt.encode(p.claims(), p.keys["first"], "RS512", {"kid": "first"}),
    "other claims than were signed": with_other_claims,
    "a stranger's signature": by_a_stranger,
    "a stranger's key in the token": by_a_key_in_the_header,
    "a stranger's keys by address": lambda p: by_a_stranger(p, jku=f"{p.issuer}/evil", x5u=f"{p.issuer}/evil"),
    "an extension that must be understood": lambda p: p.token(headers={"crit": ["b64"], "b64": True}),
    "a key that the issuer does not have": lambda p: p.token(kid="unknown"),
    "a path for a key": lambda p: p.token(kid="../../data/local-key.pem"),
    "another issuer": lambda p: p.token(iss="https://evil.example"),
    "an issuer that only begins like ours": lambda p: p.token(iss=f"{p.issuer}.evil.example"),
    "no issuer": lambda p: p.token(iss=None),
    "another audience": lambda p: p.token(aud="another-api"),
    "audiences without ours": lambda p: p.token(aud=["another-api", "a-third"]),
    "no audience": lambda p: p.token(aud=None),
    "expired": lambda p: p.token(exp=now() - LEEWAY - 5),
    "no end": lambda p: p.token(exp=None),
    "an end that is text": lambda p: p.token(exp="tomorrow"),
    "an end that is no number": lambda p: p.token(exp=float("inf")),
    "an end without end": lambda p: p.token(exp=10**400),
    "not yet valid": lambda p: p.token(nbf=now() + LEEWAY + 30),
    "issued in the future": lambda p: p.token(iat=now() + LEEWAY + 30),
    "nobody": lambda p: p.token(sub=None),
    "an empty name": lambda p: p.token(sub=""),
    "a name that is half a character": lambda p: p.token(sub="\ud800"),
    "a name with a zero in it": lambda p: p.token(sub="alice\0"),
    "a name of two lines": lambda p: p.token(sub="alice\nbob"),
    "a long name": lambda p: p.token(sub="a" * 256),
    "a number for a name": lambda p: p.token(sub=7),
    "huge": lambda p: p.token(padding="x" * 20_000),
    "empty": lambda _: "",
    "garbage": lambda _: "garbage",
    "dots": lambda _: "..",
    "no JSON": lambda _: f"{encoded(b'{')}.{encoded(b'{')}.{encoded(b'x')}",
    "a list for a header": lambda _: f"{encoded([])}.{encoded({})}.{encoded(b'x')}",
    "a list for claims": lambda p: jwt.api_jws.encode(b"[]", p.keys["first"], "RS256", {"kid": "first"}),
    "deeply nested": lambda p: jwt.api_jws.encode(b"[" * 5000, p.keys["first"], "RS256", {"kid": "first"}),
    "a list for a key's name": lambda p: f"{encoded({'alg': 'RS256', 'kid': ['first']})}.{encoded(p.claims())}.x",
}


@pytest.mark.parametrize("what", BAD)
async def test_an_invalid_token_gets_401_without_a_reason(
    client: httpx2.AsyncClient, provider: Provider, what: str
) -> None:
    assert (await ask(client, provider.token(scope="health:read"))).status_code == 200, "a valid token is refused"
    answer = await ask(client, BAD[what](provider))
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'Bearer realm="api", error="invalid_token"'
    assert answer.json()["detail"] == "The token is not valid. Get a new one."
    assert {call.path for call in provider.server.calls} <= {KEYS, CONFIGURATION}, (
        "the application connected to the address in the token"
    )


GOOD: dict[str, Made] = {
    "several audiences": lambda p: p.token(aud=["another-api", AUDIENCE], scope="health:read"),
    "expired within the leeway": lambda p: p.token(exp=now() - LEEWAY + 2, scope="health:read"),
    "valid within the leeway": lambda p: p.token(nbf=now() + LEEWAY - 2, scope="health:read"),
    "scopes as a list": lambda p: p.token(scope=["events:read", "health:read"]),
    "a whole kind of scopes": lambda p: p.token(scope="health:*"),
    "a role": lambda p: p.token(scope=None, roles=["operator", "unknown"]),
    "the issuer's only key, without its name": lambda p: p.token(kid=None, scope="health:read"),
    "headers that we do not know": lambda p: p.token(headers={"jku": "https://evil.example"}, scope="health:read"),
}


@pytest.mark.parametrize("what", GOOD)
async def test_a_valid_token_is_accepted(client: httpx2.AsyncClient, provider: Provider, what: str) -> None:
    assert (await ask(client, GOOD[what](provider))).status_code == 200


async def test_roles_may_be_nested_in_the_token(root: Path, tmp_path: Path, provider: Provider) -> None:
    """As Keycloak nests them."""
    async with application(root, tmp_path, provider, AUTH_ROLES_CLAIM="realm_access.roles") as client:
        for claim, status in (({"roles": ["operator"]}, 200), ("operator", 403), ({"roles": {"operator": 1}}, 403)):
            assert (await ask(client, provider.token(scope=None, realm_access=claim))).status_code == status


async def test_other_authorization_schemes_count_as_no_token(client: httpx2.AsyncClient) -> None:
    for sent in ({}, {"Authorization": "Basic YWxpY2U6c2VjcmV0"}, {"Authorization": "Bearer"[:3]}):
        answer = await client.get(PATH, headers=sent)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="api"')


async def test_two_authorization_headers_are_refused(client: httpx2.AsyncClient, provider: Provider) -> None:
    """Naive: the application uses the first header and a proxy in front of it the second."""
    good = ("Authorization", f"Bearer {provider.token(scope='health:read')}")
    answer = await client.get(PATH, headers=[good, good])
    assert (answer.status_code, "invalid_request" in answer.headers["www-authenticate"]) == (401, True)


async def test_too_few_scopes_are_403_and_named(client: httpx2.AsyncClient, provider: Provider) -> None:
    for scope in ("events:read", "health:write", "health", "healthy:read", ""):
        answer = await ask(client, provider.token(scope=scope))
        assert answer.status_code == 403
        challenge = 'Bearer realm="api", error="insufficient_scope", scope="health:read"'
        assert answer.headers["www-authenticate"] == challenge


async def test_a_probe_is_answered_with_any_token(client: httpx2.AsyncClient, provider: Provider) -> None:
    provider.behaviour = Hang()
    assert (await ask(client, "garbage", "/health/live")).status_code == 200


async def test_a_rotated_key_is_found_and_the_old_one_is_dropped(
    client: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_FETCH_INTERVAL_SECONDS", 0.0)
    old, renewed = provider.token(scope="health:read"), provider.token(scope="health:read", jti="2")
    assert (await ask(client, old)).status_code == 200
    provider.rotate("second", "ec-third")
    for kid in ("second", "ec-third"):
        assert (await ask(client, provider.token(kid=kid, scope="health:read"))).status_code == 200
    assert (await ask(client, renewed)).status_code == 401


async def test_many_unknown_keys_cause_one_request_to_the_provider(
    client: httpx2.AsyncClient, provider: Provider
) -> None:
    """Naive: each unknown key causes a request to the provider, which may then block the application."""
    provider.delay_seconds = 0.2
    tokens = [provider.token(kid=f"bad-{number}") for number in range(50)]
    answers = await asyncio.gather(*(ask(client, token) for token in tokens))
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.status_code for answer in [await ask(client, token) for token in tokens]} == {401}
    assert provider.asked() == 1


OUTAGES = {
    "hangs": Hang(),
    "drops": Drop(),
    "500": Reply(500),
    "no JSON": Reply(body=b"{"),
    "no keys": Reply(body=b'{"keys": []}'),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_without_keys_and_provider_the_response_is_an_early_503(
    client: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch, outage: str
) -> None:
    """Naive: 401, after which every client discards a valid token; or no response at all."""
    monkeypatch.setattr(keys, "_FETCH_TIMEOUT_SECONDS", 0.3)
    provider.behaviour = OUTAGES[outage]
    token, begun = provider.token(scope="health:read"), time.monotonic()
    answers = await asyncio.gather(*(ask(client, token) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert time.monotonic() - begun < 5
    assert 1 <= len(provider.server.calls) <= 3, "all requests cause one request to the provider, with its tries"
    provider.behaviour, healed = None, time.monotonic()
    for _ in range(200):
        if (await ask(client, token)).status_code == 200:
            break
        await asyncio.sleep(0.02)
    assert time.monotonic() - healed < 3


@pytest.mark.alone
@pytest.mark.parametrize("outage", ["hangs", "500"])
async def test_with_keys_an_outage_of_the_provider_has_no_effect(
    root: Path, tmp_path: Path, provider: Provider, outage: str
) -> None:
    """Even if the keys are old: a precautionary refresh delays no request."""
    async with application(root, tmp_path, provider, AUTH_JWKS_CACHE_SECONDS="0.001") as client:
        assert (await ask(client, provider.token(scope="health:read"))).status_code == 200
        provider.behaviour = OUTAGES[outage]
        begun = time.monotonic()
        for number in range(20):
            assert (await ask(client, provider.token(scope="health:read", jti=str(number)))).status_code == 200
        assert time.monotonic() - begun < 2


async def test_a_configuration_of_another_issuer_is_refused(client: httpx2.AsyncClient, provider: Provider) -> None:
    provider.issuer_told = "https://evil.example"
    assert (await ask(client, provider.token(scope="health:read"))).status_code == 503
    assert (provider.asked(CONFIGURATION), provider.asked()) == (1, 0)


async def test_an_accepted_token_is_refused_after_its_expiry(root: Path, tmp_path: Path, provider: Provider) -> None:
    """Naive: a verified token is remembered beyond its expiry."""
    async with application(root, tmp_path, provider, AUTH_CLOCK_LEEWAY_SECONDS="0") as client:
        token = provider.token(exp=now() + 2, scope="health:read")
        assert (await ask(client, token)).status_code == 200

        async def is_refused() -> bool:
            return (await ask(client, token)).status_code == 401

        await until(is_refused, seconds=10)


async def test_an_optional_token_is_verified_if_it_is_sent(root: Path, tmp_path: Path, provider: Provider) -> None:
    async with application(root, tmp_path, provider, AUTH_ENABLED="false") as client:
        statuses = [
            await ask(client, token)
            for token in (None, "garbage", provider.token(), provider.token(scope="health:read"))
        ]
        assert [answer.status_code for answer in statuses] == [200, 401, 403, 200]
