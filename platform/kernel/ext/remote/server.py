"""/internal: the contracts and message handlers of this process, for other processes that sign what they ask."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from kernel.ext.messaging.inbound import Inbound, NoSuchHandler, NotYet
from kernel.ext.messaging.message import Message
from kernel.ext.messaging.outages import Failed, Outage
from kernel.ext.messaging.watch import Asked, DeliveryWatch
from kernel.ext.remote.client import NOT_YET
from kernel.ext.remote.compatibility import compare
from kernel.ext.remote.deadline import HEADER, DeadlinePassed, until
from kernel.ext.remote.openapi import document
from kernel.ext.remote.settings import InternalSettings
from kernel.ext.remote.signing import Refused, Tokens
from kernel.ext.remote.wire import DESCRIBED, Described, WireContract, WireMessage, WireMethod
from kernel.modules.contracts import Contract, ContractError
from kernel.settings import Settings
from kernel.web.access_log import shortened
from kernel.web.dispatch import close_unread
from kernel.web.problems import MEDIA_TYPE, BadRequest, NotFound, answer
from kernel.web.validation import few

PREFIX = "/internal"

_log = structlog.get_logger("kernel.ext.remote")


class Internal:
    """Pure ASGI, below PREFIX. Nothing is made of a contract before somebody asks here."""

    def __init__(
        self,
        provided: Mapping[str, list[type[Contract]]],
        published: Mapping[str, Sequence[type[Message]]],
        ports: Mapping[type[Contract], Contract],
        settings: Settings,
        tokens: Tokens,
        inbound: Inbound,
        watch: DeliveryWatch,
    ) -> None:
        self._provided, self._published, self._ports, self._tokens = provided, published, ports, tokens
        self._inbound, self._watch = inbound, watch
        self._title = settings.application.title
        self._leeway = settings.group(InternalSettings).clock_leeway_seconds
        self._told: set[str] = set()

    @cached_property
    def _contracts(self) -> dict[str, list[WireContract]]:
        return {module: [WireContract(one) for one in contracts] for module, contracts in self._provided.items()}

    @cached_property
    def _described(self) -> dict[str, dict[str, Described]]:
        """The contracts and messages of each module."""
        messages = {module: [WireMessage(one) for one in published] for module, published in self._published.items()}
        return {
            module: {wire.name: wire.described for wire in (*wires, *messages.get(module, ()))}
            for module, wires in self._contracts.items()
        }

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
        path = get_route_path(request.scope).strip("/")
        parts = path.split("/")
        module, subject = _audience(parts)
        try:
            claims = self._tokens.authenticate(_token(request), module, subject)
            body = await request.body()
            self._tokens.accept(claims, body)
        except Refused as refused:
            _log.warning("refused", path=shortened(request.scope["path"]), reason=shortened(str(refused)))
            detail = "Only calls that this application's own processes have signed."
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"} | close_unread(request.scope)) from None
        match request.method, parts:
            case "POST", ["contracts", _, method]:
                return await self._call(module, method, body, request)
            case "POST", ["contracts", _]:
                return self._compare(module, body)
            case "POST", ["messages", _, *function] if len(function) <= 1:
                return await self._take(module, function[0] if function else None, body)
            case "POST", ["subscriptions", _]:
                try:
                    return JSONResponse(self._watch.answer(module, Asked.model_validate_json(body)))
                except ValidationError as error:
                    raise _invalid(error) from None
            case "GET", ["contracts"]:
                return JSONResponse(self._described)
            case "GET", ["openapi.json"]:
                contracts = [(name, wire) for name, wires in self._contracts.items() for wire in wires]
                return JSONResponse(document(self._title, contracts))
        raise NotFound("There is nothing of this name.")

    async def _call(self, module: str, name: str, body: bytes, request: Request) -> Response:
        if (module, name) not in self._methods:
            raise NotFound(f"{module} provides no {name} here.")
        wire, method = self._methods[module, name]
        try:
            call = method.read(body)
        except ValidationError as error:
            raise _invalid(error) from None
        try:
            async with until(self._deadline(request)):
                result = await getattr(self._ports[wire.contract], name)(*call.args, **call.kwargs)
        except DeadlinePassed:
            raise HTTPException(504, "Nobody waits for the answer any more.") from None
        except ContractError as error:
            if type(error) not in wire.errors.values():
                raise
            return _declared(error, request)
        content = method.result.dump_json(result, by_alias=True, warnings="error")
        return Response(content, media_type="application/json")

    async def _take(self, module: str, function: str | None, body: bytes) -> Response:
        """Handle a message; 204 says that its transaction has committed. The others: see Peer.deliver."""
        try:
            await self._inbound.accept(module, function, body)
        except NoSuchHandler as error:
            raise NotFound(str(error)) from None
        except ValidationError as error:
            raise _invalid(error) from None
        except NotYet as error:
            raise HTTPException(NOT_YET, str(error)) from None
        except Outage as error:
            raise HTTPException(503, str(error)) from None
        except Failed as error:
            raise HTTPException(500, str(error)) from None
        return Response(status_code=204)

    def _compare(self, module: str, body: bytes) -> Response:
        """Answer with what this process provides and publishes, and log how the caller's descriptions differ."""
        own = self._described.get(module, {})
        try:
            found = compare(DESCRIBED.validate_json(body), own)
        except ValidationError as error:
            raise _invalid(error) from None
        except ValueError as error:
            raise BadRequest(str(error)) from None
        for one in found:
            if str(one) not in self._told:
                self._told.add(str(one))
                _log.warning("a caller means another contract", difference=str(one), is_breaking=one.is_breaking)
        return JSONResponse(own)

    def _deadline(self, request: Request) -> float | None:
        """Until when to work, by our clock. Raises HTTPException."""
        if (given := request.headers.get(HEADER)) is None:
            return None
        try:
            deadline = float(given) + self._leeway
        except ValueError:
            deadline = math.nan
        if not math.isfinite(deadline):
            raise BadRequest(f"{HEADER} must be a Unix time in seconds.")
        if deadline <= time.time():
            raise HTTPException(504, "The call came after its deadline.")
        return deadline


def _audience(parts: list[str]) -> tuple[str, str]:
    """The module for which a token must be, and what the token must be for, by the path."""
    match parts:
        case ["contracts", module, *_]:
            return module, "/".join(parts[1:])
        case ["messages" | "subscriptions", module, *_]:
            return module, "/".join(parts)
    return "internal", "/".join(parts)


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _invalid(error: ValidationError) -> RequestValidationError:
    details = few(error).errors(include_url=False, include_input=False)
    return RequestValidationError([{**detail, "loc": ("body", *detail["loc"])} for detail in details])


def _declared(error: ContractError, request: Request) -> Response:
    """422, with what the other side needs to raise the same error."""
    problem = json.loads(bytes(answer(request, 422, str(error)).body))
    told = {"name": type(error).__name__, "fields": error.fields.model_dump(mode="json", by_alias=True)}
    return JSONResponse(problem | {"contract_error": told}, 422, media_type=MEDIA_TYPE)
