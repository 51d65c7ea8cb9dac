"""Call the contracts of a module that runs in another process."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any
from urllib.parse import quote

import httpx2
import structlog
from pydantic import ValidationError
from structlog.contextvars import get_contextvars

from kernel.ext.channel.channel import ChannelError, ModuleUnreachable, Reply, SharedModel
from kernel.ext.remote import deadline
from kernel.ext.remote.compatibility import compare
from kernel.ext.remote.signing import CallSigner
from kernel.ext.remote.wire import DESCRIBED, Described, WireContract, WireMethod, describe
from kernel.health import Degraded
from kernel.http_client import OUTAGES, CircuitOpen, HttpxRestClientPool
from kernel.modules.contracts import CallRule, Contract, ContractBroken, ContractError, ContractUnavailable
from kernel.settings import HttpClientSettings

_COMPARE_SECONDS = 3.0

_log = structlog.get_logger("kernel.ext.remote")


class ContractsDiffer(Exception):
    """The provider's contracts or messages do not fit those of this process. Names the members."""


class SigningTransport(httpx2.AsyncBaseTransport):
    """Signs each attempt of a call to another process: the other side accepts a signature once."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if (sign := request.extensions.get("sign")) is not None:
            sign(request)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class RemoteModule:
    """A module that runs in another process: its address, and what this process uses of it."""

    def __init__(
        self,
        name: str,
        url: str,
        contracts: Sequence[type[Contract]],
        http: HttpxRestClientPool,
        signer: CallSigner,
        settings: HttpClientSettings,
    ) -> None:
        self.name, self.url = name, url
        self.contracts = [WireContract(contract) for contract in contracts]
        # The messages that this process reads.
        self.models: list[SharedModel] = []
        self._http, self._signer = http, signer
        self._call_seconds = settings.total_timeout_seconds
        self._is_compared = asyncio.Event()
        self._finding: Exception | None = None
        # Whether the check has succeeded or degraded before: this process serves, and others rely on it.
        self._is_serving = False
        self._logged = ""

    def clients(self, rule: CallRule) -> Mapping[type[Contract], Contract]:
        """Return implementations of the contracts that call the other process."""
        return {wire.contract: _client(wire, self, rule) for wire in self.contracts}

    async def call(
        self, method: str, body: bytes, *, key: str | None = None, at_most: float | None = None
    ) -> httpx2.Response:
        """Call a method of a contract. With a `key` the client may repeat the request. Raises ContractUnavailable."""
        path = f"{self.name}/{method}".rstrip("/")
        seconds = deadline.seconds_left(self._call_seconds if at_most is None else at_most)
        if seconds <= 0:
            raise ContractUnavailable(f"{path} was not called: the deadline of the current call has passed.")
        try:
            return await self._post(f"contracts/{path}", path, body, seconds, key)
        except httpx2.HTTPError as error:
            url = f"{self.url}/internal/contracts/{path}"
            raise ContractUnavailable(f"{path} does not answer at {url}: {error!r}") from error

    async def post(self, path: str, body: bytes, seconds: float) -> Reply:
        """Post to a service of an extension. Raises ChannelError."""
        try:
            response = await self._post(path, path, body, seconds, reads_for=seconds)
        except (httpx2.ConnectError, httpx2.TimeoutException, CircuitOpen) as error:
            raise ModuleUnreachable(f"{self.name} does not answer at {self.url}: {error!r}") from error
        except httpx2.HTTPError as error:
            raise ChannelError(
                f"{self.name} at {self.url} ended the connection without an answer: {error!r}"
            ) from error
        status, problem = response.status_code, ""
        if status >= 400:
            problem = f"{_detail(response)} (answered with {status} by {response.url})"
        return Reply(status, response.content, problem)

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
            token = self._signer.sign(self.name, subject, body, ends_at)
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"

        extensions = {"total_timeout": seconds, "sign": sign, "is_internal": True}
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
        """Raise the finding of the last comparison.

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
        """Compare at once and then periodically during the block."""
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

    @cached_property
    def expected(self) -> dict[str, Described]:
        """The descriptions of what this process uses of the module."""
        return describe(self.contracts, self.models)

    async def compare(self) -> None:
        """Compare the descriptions of both sides; `check` raises the finding."""
        try:
            answer = await self.call("", DESCRIBED.dump_json(self.expected), key="compare", at_most=_COMPARE_SECONDS)
            _must_be_200(answer, self.name)
            found = compare(self.expected, DESCRIBED.validate_json(answer.content))
        except Exception as error:  # noqa: BLE001  # an unreachable module must not stop this process
            # A difference stays a difference while the module does not answer.
            if not isinstance(self._finding, ContractsDiffer):
                self._set_finding(Degraded(str(error)), str(error))
            return
        breaking = "; ".join(str(one) for one in found if one.is_breaking)
        self._set_finding(ContractsDiffer(breaking) if breaking else None, "; ".join(map(str, found)))

    def _set_finding(self, finding: Exception | None, text: str) -> None:
        self._finding = finding
        self._is_serving = self._is_serving or not isinstance(finding, ContractsDiffer)
        if text and text != self._logged:
            _log.warning("contracts of another process", module=self.name, url=self.url, found=text)
        self._logged = text


def _client(wire: WireContract, module: RemoteModule, rule: CallRule) -> Contract:
    calls = {name: _remote_call(wire, method, module, rule) for name, method in wire.methods.items()}
    client: Contract = type(f"Remote{wire.name}", (wire.contract,), calls)()
    return client


def _remote_call(wire: WireContract, method: WireMethod, module: RemoteModule, rule: CallRule) -> Callable[..., Any]:
    async def call(_self: Contract, *args: Any, **kwargs: Any) -> Any:
        body, key = method.encode(args, kwargs)
        await rule.before(method.call)
        answer = await module.call(method.name, body, key=os.urandom(16).hex() if method.is_safe else key)
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
    context = get_contextvars()  # bound by the outermost middleware: see kernel/web/middleware.py
    headers = {
        "Accept-Encoding": "identity",  # Inside one network, compression costs more than it saves.
        "Content-Type": "application/json",
        "Idempotency-Key": key and quote(key),
        "X-Request-ID": context.get("request_id"),
        "traceparent": context.get("traceparent"),
        deadline.HEADER: f"{ends_at:.3f}",
    }
    return {name: value for name, value in headers.items() if value}


def _declared(wire: WireContract, answer: httpx2.Response) -> ContractError | None:
    """Return the error that the other side raised, if the contract declares it."""
    try:
        raised = answer.json()["contract_error"]
        return wire.errors[raised["name"]](**raised["fields"])
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
        detail += " Check that both processes have the same INTERNAL_SECRET or matching keys, and the same time."
    return detail
