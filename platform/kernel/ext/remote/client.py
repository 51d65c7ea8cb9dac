"""Asking a module that runs in another process."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx2
import structlog
from pydantic import ValidationError
from structlog.contextvars import get_contextvars

from kernel.ext.messaging.message import Message
from kernel.ext.messaging.outages import Failed, Outage
from kernel.ext.remote import deadline
from kernel.ext.remote.compatibility import compare
from kernel.ext.remote.signing import Tokens
from kernel.ext.remote.wire import DESCRIBED, WireContract, WireMessage, WireMethod
from kernel.health import Degraded
from kernel.http_client.client import OUTAGES, CircuitOpen, HttpxRestClientPool
from kernel.modules.contracts import CallRule, Contract, ContractBroken, ContractError, ContractUnavailable
from kernel.settings import HttpClientSettings

_COMPARE_SECONDS = 3.0
# The status of a message that is newer than the process to which it was posted.
NOT_YET = 409

_log = structlog.get_logger("kernel.ext.remote")


class ContractsDiffer(Exception):
    """The other side provides something else than what is asked here. Names the members."""


class Peer:
    """A module elsewhere: its address, the contracts that are called and the messages that are handled here."""

    def __init__(
        self,
        module: str,
        url: str,
        contracts: tuple[type[Contract], ...],
        messages: tuple[type[Message], ...],
        http: HttpxRestClientPool,
        tokens: Tokens,
        settings: HttpClientSettings,
    ) -> None:
        self.module, self.url = module, url
        self.wires = [WireContract(contract) for contract in contracts]
        self.messages = [WireMessage(message) for message in messages]
        self._http, self._tokens = http, tokens
        self._call_seconds = settings.total_timeout_seconds
        self._is_compared = asyncio.Event()
        self._finding: Exception | None = None
        # Whether readiness was ever in order: from then on this process serves, and others rely on it.
        self._is_serving = False
        self._told = ""

    def ports(self, rule: CallRule) -> Mapping[type[Contract], Contract]:
        """The contracts, answered by the other process."""
        return {wire.contract: remote_port(wire, self, rule) for wire in self.wires}

    async def ask(
        self, method: str, body: bytes, *, key: str | None = None, at_most: float | None = None
    ) -> httpx2.Response:
        """Post to the other process, signed. With a `key` the pool may try again. Raises ContractUnavailable."""
        path = f"{self.module}/{method}".rstrip("/")
        seconds = deadline.seconds_left(self._call_seconds if at_most is None else at_most)
        if seconds <= 0:
            raise ContractUnavailable(f"{path} was not asked: whoever waits for it has waited too long.")
        try:
            return await self._post(f"contracts/{path}", path, body, seconds, key)
        except httpx2.HTTPError as error:
            url = f"{self.url}/internal/contracts/{path}"
            raise ContractUnavailable(f"{path} does not answer at {url}: {error!r}") from error

    async def deliver(self, function: str | None, body: bytes, seconds: float) -> None:
        """Have one handler of the module, or all of them, handle a posted message; return when that is done.

        Raises Outage where trying again can help. Raises Failed for any other answer, and where the connection broke
        before one: a message that ends the process that handles it must not be posted for ever.
        """
        path = "/".join(filter(None, ("messages", self.module, function)))
        try:
            answer = await self._post(path, path, body, seconds, reads_for=seconds)
        except (httpx2.ConnectError, httpx2.TimeoutException, CircuitOpen) as error:
            raise Outage(f"{self.module} does not answer at {self.url}: {error!r}") from error
        except httpx2.HTTPError as error:
            raise Failed(f"{self.module} at {self.url} ended the connection without an answer: {error!r}") from error
        if answer.status_code != 204:
            kind = Outage if answer.status_code in (*OUTAGES, NOT_YET) else Failed
            raise kind(f"{_detail(answer)} (answered with {answer.status_code} by {answer.url})")

    async def subscribed(self, body: bytes) -> bytes:
        """Tell the module what subscribes to its messages here; return what it answers. Raises ContractUnavailable."""
        path = f"subscriptions/{self.module}"
        try:
            answer = await self._post(path, path, body, _COMPARE_SECONDS)
        except httpx2.HTTPError as error:
            raise ContractUnavailable(f"{self.module} does not answer at {self.url}: {error!r}") from error
        _must_be_200(answer, path)
        return answer.content

    async def _post(
        self,
        path: str,
        subject: str,
        body: bytes,
        seconds: float,
        key: str | None = None,
        reads_for: float | None = None,
    ) -> httpx2.Response:
        """Post below /internal with a token for `subject`. Raises httpx2.HTTPError.

        `reads_for`: how long to wait for the first byte, instead of HTTP_CLIENT_READ_TIMEOUT_SECONDS.
        """
        ends_at = time.time() + seconds
        client = self._http.get_client()

        def sign(request: httpx2.Request) -> None:
            token = self._tokens.sign(self.module, subject, body, ends_at)
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"

        # Each try is signed anew: the other side refuses a token that came before.
        extensions = {"total_timeout": seconds, "sign": sign}
        timeout = client.timeout
        if reads_for is not None:
            timeout = httpx2.Timeout(connect=timeout.connect, read=reads_for, write=timeout.write, pool=timeout.pool)
        return await client.post(
            f"{self.url}/internal/{path}",
            content=body,
            headers=_headers(ends_at, key),
            extensions=extensions,
            timeout=timeout,
        )

    async def check(self) -> None:
        """Raise what the last comparison found.

        Raises ContractsDiffer for a breaking difference, which keeps a process that has just started out of service,
        and Degraded for a breaking difference found later and for a module that does not answer.
        """
        await self._is_compared.wait()
        if isinstance(self._finding, ContractsDiffer) and self._is_serving:
            raise Degraded(f"{self._finding} (found after the start: the process goes on, new ones will not be ready)")
        if self._finding is not None:
            raise self._finding

    @asynccontextmanager
    async def comparing(self, every_seconds: float) -> AsyncIterator[None]:
        """Look now, and again and again, whether the other side answers and means the same contracts."""
        task = asyncio.create_task(self._keep_comparing(every_seconds))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _keep_comparing(self, every_seconds: float) -> None:
        while True:
            await self.compare()
            self._is_compared.set()
            await asyncio.sleep(every_seconds)

    async def compare(self) -> None:
        """Look now; `check` says what was found."""
        try:
            mine = {one.name: one.described for one in self.wires} | {one.name: one.described for one in self.messages}
            answer = await self.ask("", DESCRIBED.dump_json(mine), key="compare", at_most=_COMPARE_SECONDS)
            _must_be_200(answer, self.module)
            found = compare(mine, DESCRIBED.validate_json(answer.content))
        except Exception as error:  # noqa: BLE001  # whatever fails, an unreachable module does not stop this one
            # A module that cannot be asked any more still differs as it did.
            if not isinstance(self._finding, ContractsDiffer):
                self._found(Degraded(str(error)), str(error))
            return
        breaking = "; ".join(str(one) for one in found if one.is_breaking)
        self._found(ContractsDiffer(breaking) if breaking else None, "; ".join(map(str, found)))

    def _found(self, finding: Exception | None, told: str) -> None:
        self._finding = finding
        self._is_serving = self._is_serving or not isinstance(finding, ContractsDiffer)
        if told and told != self._told:
            _log.warning("module elsewhere", module=self.module, url=self.url, found=told)
        self._told = told


def remote_port(wire: WireContract, peer: Peer, rule: CallRule) -> Contract:
    """The contract, answered by another process, by which it may also be unavailable."""
    calls = {name: _remote_call(wire, method, peer, rule) for name, method in wire.methods.items()}
    port: Contract = type(f"Remote{wire.name}", (wire.contract,), calls)()
    return port


def _remote_call(wire: WireContract, method: WireMethod, peer: Peer, rule: CallRule) -> Callable[..., Any]:
    async def call(_self: Contract, *args: Any, **kwargs: Any) -> Any:
        body, key = method.written(args, kwargs)
        await rule.before(method.call)
        answer = await peer.ask(method.name, body, key=os.urandom(16).hex() if method.is_safe else key)
        if answer.status_code == 422 and (error := _declared(wire, answer)) is not None:
            raise error
        _must_be_200(answer, method.call)
        try:
            return method.result.validate_json(answer.content)
        except ValidationError as error:
            wrong = "; ".join(f"{one['loc']}: {one['msg']}" for one in error.errors(include_input=False))
            raise ContractBroken(f"{method.call} was answered with another type by {answer.url}: {wrong}") from None

    call.__name__ = method.name
    return call


def _headers(ends_at: float, key: str | None) -> dict[str, str]:
    context = get_contextvars()  # the shell's: see kernel/web/request_context.py
    headers = {
        "Accept-Encoding": "identity",  # between neighbours compressing costs more than it saves
        "Content-Type": "application/json",
        "Idempotency-Key": key and quote(key),
        "X-Request-ID": context.get("request_id"),
        "traceparent": context.get("traceparent"),
        deadline.HEADER: f"{ends_at:.3f}",
    }
    return {name: value for name, value in headers.items() if value}


def _declared(wire: WireContract, answer: httpx2.Response) -> ContractError | None:
    """The error that the other side raised, if it is one of the contract's."""
    try:
        told = answer.json()["contract_error"]
        return wire.errors[told["name"]](**told["fields"])
    except (ValueError, KeyError, TypeError):
        return None


def _must_be_200(answer: httpx2.Response, what: str) -> None:
    if answer.status_code == 200:
        return
    kind = ContractUnavailable if answer.status_code in OUTAGES else ContractBroken
    raise kind(f"{what} was answered with {answer.status_code} by {answer.url}: {_detail(answer)}")


def _detail(answer: httpx2.Response) -> str:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    if answer.status_code == 401:
        detail += " Have both sides the same INTERNAL_SECRET, or keys that fit, and the same time?"
    return detail
