"""/internal: the contracts of this process and the services of its extensions, for signed calls of other processes."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from kernel.ext.remote.channel import HttpChannel
from kernel.ext.remote.compatibility import compare
from kernel.ext.remote.deadline import HEADER, DeadlinePassed, until
from kernel.ext.remote.openapi import document
from kernel.ext.remote.settings import InternalSettings
from kernel.ext.remote.signing import CallRefused, CallSigner
from kernel.ext.remote.wire import DESCRIBED, Described, WireContract, WireMethod, describe
from kernel.modules.contracts import Contract, ContractError
from kernel.settings import Settings
from kernel.web.context import route_path
from kernel.web.dispatch import close_unread
from kernel.web.problems import MEDIA_TYPE, NotFound, answer, shortened

PREFIX = "/internal"

_log = structlog.get_logger("kernel.ext.remote")


class ContractServer:
    """Pure ASGI, below PREFIX. Models and descriptions of contracts are made at the first call."""

    def __init__(
        self,
        provided: Mapping[str, Sequence[type[Contract]]],
        implementations: Mapping[type[Contract], Contract],
        channel: HttpChannel,
        settings: Settings,
        signer: CallSigner,
    ) -> None:
        """`provided` are the contracts of the modules of this process."""
        self._provided, self._implementations, self._signer = provided, implementations, signer
        self._channel = channel
        self._title = settings.application.title
        self._leeway = settings.group(InternalSettings).clock_leeway_seconds
        self._logged: set[str] = set()

    @cached_property
    def _contracts(self) -> dict[str, list[WireContract]]:
        return {module: [WireContract(one) for one in contracts] for module, contracts in self._provided.items()}

    @cached_property
    def _described(self) -> dict[str, dict[str, Described]]:
        """Return the contracts and messages of each module."""
        sent = self._channel.sent
        return {module: describe(wires, sent.get(module, ())) for module, wires in self._contracts.items()}

    @cached_property
    def _methods(self) -> dict[tuple[str, str], tuple[WireContract, WireMethod]]:
        named = ((module, wire) for module, wires in self._contracts.items() for wire in wires)
        return {(module, one.name): (wire, one) for module, wire in named for one in wire.methods.values()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = route_path(request.scope).strip("/")
        parts = path.split("/")
        module, subject = self._audience(parts)
        try:
            claims = self._signer.authenticate(_token(request), module, subject)
            body = await request.body()
            self._signer.accept(claims, body)
        except CallRefused as refused:
            _log.warning(
                "internal call refused",
                path=shortened(request.scope["path"]),
                reason=shortened(str(refused)),
            )
            detail = "Only calls signed by a process of this application are accepted."
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"} | close_unread(request.scope)) from None
        match request.method, parts:
            case "POST", ["contracts", _, method]:
                return await self._call(module, method, body, request)
            case "POST", ["contracts", _]:
                return self._compare(module, body)
            case "POST", [service, _, *name] if service in self._channel.services and len(name) <= 1:
                return await self._serve(service, module, name[0] if name else "", body)
            case "GET", ["contracts"]:
                return JSONResponse(self._described)
            case "GET", ["openapi.json"]:
                contracts = [(name, wire) for name, wires in self._contracts.items() for wire in wires]
                return JSONResponse(document(self._title, contracts))
        raise NotFound("There is no such path below /internal.")

    def _audience(self, parts: list[str]) -> tuple[str, str]:
        """Return the module and the subject that the token of a call to this path must name."""
        match parts:
            case ["contracts", module, *_]:
                return module, "/".join(parts[1:])
            case [service, module, *_] if service in self._channel.services:
                return module, "/".join(parts)
        return "internal", "/".join(parts)

    async def _call(self, module: str, name: str, body: bytes, request: Request) -> Response:
        if (module, name) not in self._methods:
            raise NotFound(f"{module} provides no method {name} in this process.")
        wire, method = self._methods[module, name]
        try:
            call = method.decode(body)
        except ValidationError as error:
            raise _invalid(error) from None
        try:
            async with until(self._deadline(request)):
                result = await getattr(self._implementations[wire.contract], name)(*call.args, **call.kwargs)
        except DeadlinePassed:
            raise HTTPException(504, "The deadline of the call has passed.") from None
        except ContractError as error:
            if type(error) not in wire.errors.values():
                raise
            return _declared(error, request)
        content = method.result.dump_json(result, by_alias=True, warnings="error")
        return Response(content, media_type="application/json")

    async def _serve(self, service: str, module: str, name: str, body: bytes) -> Response:
        """Let the extension that registered the service answer."""
        try:
            content = await self._channel.services[service](module, name, body)
        except ValidationError as error:
            raise _invalid(error) from None
        if content is None:
            return Response(status_code=204)
        return Response(content, media_type="application/json")

    def _compare(self, module: str, body: bytes) -> Response:
        """Answer with what this process provides and publishes, and log how the caller's descriptions differ."""
        own = self._described.get(module, {})
        try:
            found = compare(DESCRIBED.validate_json(body), own)
        except ValidationError as error:
            raise _invalid(error) from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        for one in found:
            if str(one) not in self._logged:
                self._logged.add(str(one))
                _log.warning("the contracts of a caller differ", difference=str(one), is_breaking=one.is_breaking)
        return JSONResponse(own)

    def _deadline(self, request: Request) -> float | None:
        """Return the deadline of a call by the clock of this process. Raises HTTPException."""
        if (given := request.headers.get(HEADER)) is None:
            return None
        try:
            deadline = float(given) + self._leeway
        except ValueError:
            deadline = math.nan
        if not math.isfinite(deadline):
            raise HTTPException(400, f"{HEADER} must be a Unix time in seconds.")
        if deadline <= time.time():
            raise HTTPException(504, "The call arrived after its deadline.")
        return deadline


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _invalid(error: ValidationError) -> RequestValidationError:
    details = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**detail, "loc": ("body", *detail["loc"])} for detail in details])


def _declared(error: ContractError, request: Request) -> Response:
    """Answer 422 with the data that the caller needs to raise the same error."""
    problem = json.loads(bytes(answer(request, 422, str(error)).body))
    raised = {"name": type(error).__name__, "fields": error.fields.model_dump(mode="json", by_alias=True)}
    return JSONResponse(problem | {"contract_error": raised}, 422, media_type=MEDIA_TYPE)
