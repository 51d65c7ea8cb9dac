"""Errors as problem details (RFC 9457): one shape for every failure, and never a word of what the caller sent."""

import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response

from kernel.database.errors import (
    DatabaseUnavailable,
    NotAllowed,
    StaleVersion,
    Violation,
    violation_of,
)
from kernel.database.paging import InvalidCursor
from kernel.web.context import find_context
from kernel.web.recorder import Replay, on_replay
from kernel.web.validation import MOST_ERRORS

_log = structlog.get_logger("kernel.errors")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"


class FieldProblem(BaseModel):
    """What is wrong with one part of a request."""

    field: str = Field(description="Where: `body.title`, `query.limit`, `path.event_id`, `header.if-match`.")
    message: str
    code: str = Field(description="A stable name for the kind of fault.")


# RFC 9457 has text here. What a handler gives to FastAPI's HTTPException may be any JSON, and clients read it here.
Detail = str | int | float | bool | list[Any] | dict[str, Any] | None


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: Detail = Field(
        None, description="What went wrong this time and what to do: text, unless the handler gave more structure."
    )
    request_id: str | None = Field(None, description="Quote this when you ask for help.")
    errors: list[FieldProblem] | None = None
    traceback: list[str] | None = Field(None, description="Only while debugging.")


class Problem(HTTPException):
    """An error that a handler raises to answer with it. Raise a subclass."""

    status: ClassVar[int] = 500

    def __init__(
        self, detail: str, *, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.status, detail, dict(headers or {}))
        self.errors = list(errors)


class BadRequest(Problem):
    """400."""

    status = 400


class Unauthorized(Problem):
    """401: who asks has to say who they are, in a way that holds."""

    status = 401


class Forbidden(Problem):
    """403: we know who asks, and they may not."""

    status = 403


class NotFound(Problem):
    """404."""

    status = 404


class Conflict(Problem):
    """409."""

    status = 409


class PreconditionFailed(Problem):
    """412."""

    status = 412


class ContentTooLarge(Problem):
    """413."""

    status = 413


class UnsupportedMediaType(Problem):
    """415."""

    status = 415


class RangeNotSatisfiable(Problem):
    """416."""

    status = 416


class TooManyRequests(Problem):
    """429."""

    status = 429


class Unprocessable(Problem):
    """422 for one field of the body: `raise Unprocessable("image_id", "no image has this id")`."""

    status = 422

    def __init__(self, field: str, message: str, *, code: str = "invalid", part: str = "body") -> None:
        error = FieldProblem(field=f"{part}.{field}", message=message, code=code)
        super().__init__(INVALID, errors=[error])


class InsufficientStorage(Problem):
    """507: there is no room to keep what was sent (RFC 4918)."""

    status = 507


class Unavailable(Problem):
    """503: a dependency is down or busy; the caller may try again."""

    status = 503

    def __init__(self, detail: str, *, errors: Sequence[FieldProblem] = (), retry_after_seconds: int = 1) -> None:
        super().__init__(detail, errors=errors, headers={"Retry-After": str(retry_after_seconds)})


Thing = TypeVar("Thing")


def or_404(thing: Thing | None, what: str) -> Thing:
    """The thing itself; raises NotFound if it is None or False: `or_404(await events.get_by_id(id), "event")`."""
    if thing is None or thing is False:
        raise NotFound(f"There is no such {what}.")
    return thing


_MOST_FIELD = 100
INVALID = "The request is not valid: see errors."
_VIOLATIONS: dict[Violation, tuple[int, str]] = {
    "unique": (409, "Something with the same key exists already."),
    "reference": (409, "Something else still refers to this, or this refers to something that does not exist."),
    "missing": (422, "A required value is missing."),
    "check": (422, "A value breaks a rule of the data."),
    "value": (422, "A value is out of range."),
}


def phrase_of(status: int) -> str:
    """Return the status in words: "Error" for one that RFC 9110 and its successors do not name (499)."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def answer(
    request: HTTPConnection,
    status: int,
    detail: object = None,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    error: Exception | None = None,
) -> Response:
    """A response with problem details."""
    if status in {204, 304}:
        return Response(status_code=status, headers=headers)
    title, context = phrase_of(status), find_context(request.scope)
    shows_traceback = error is not None and getattr(request.scope.get("app"), "debug", False)
    body = ProblemDetails(
        title=title,
        status=status,
        detail=None if detail == title else _as_json(detail),
        request_id=None if context is None else context.request_id,
        errors=list(errors) or None,
        traceback=traceback.format_exception(error) if shows_traceback else None,
    )
    return Response(body.model_dump_json(exclude_none=True), status, headers, media_type=MEDIA_TYPE)


def _as_json(detail: object) -> Any:
    """Return what a handler gave as JSON: models become objects, and what JSON has no form for becomes text."""
    try:
        plain = to_jsonable_python(detail, bytes_mode="base64", serialize_unknown=True)
        text = json.dumps(plain, ensure_ascii=False)
    except (ValueError, TypeError):  # it contains itself, or keys that are no text
        text = json.dumps(str(detail), ensure_ascii=False)
    # Half a surrogate pair, which JSON may hold and UTF-8 may not, becomes a question mark.
    return json.loads(text.encode(errors="replace"), parse_constant=lambda _: None)


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    """Problems that handlers raise, and what Starlette raises itself (404, 405)."""
    # FastAPI takes whatever goes wrong while it reads a form for a mistake of the caller, also a disk that is full.
    if error.status_code == 400 and isinstance(error.__cause__, OSError):
        _log.error("the body could not be kept in a temporary file", exc_info=error.__cause__)
        more = True
        with suppress(HTTPException):  # it is too large, too
            while more:  # who is still sending when the connection ends does not see the answer
                more = (await request.receive()).get("more_body", False)
        return answer(request, 507, "There is no room to take in what you sent.")
    errors = error.errors if isinstance(error, Problem) else ()
    return answer(request, error.status_code, error.detail, errors=errors, headers=error.headers)


async def on_invalid_request(
    request: Request, error: RequestValidationError | WebSocketRequestValidationError
) -> Response:
    """422, or 415 where the body is of another media type than the route reads."""
    expected = _expected_media_type(request)
    if expected is not None and any(detail["loc"][:1] == ("body",) for detail in error.errors()):
        return answer(request, 415, f"Send the body as {expected}.", headers={"Accept": expected})
    # Each value has at most so many; a request may have several values.
    return answer(
        request, 422, INVALID, errors=[_field_problem(detail) for detail in error.errors()[: MOST_ERRORS + 1]]
    )


def _expected_media_type(request: Request) -> str | None:
    """The media type that the route reads, if the request's is another."""
    body_field = getattr(request.scope.get("route"), "body_field", None)
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body_field is None or not sent:
        return None
    if type(body_field.field_info).__name__ in {"Form", "File"}:
        accepted: tuple[str, ...] = ("multipart/form-data", "application/x-www-form-urlencoded")
        return None if sent in accepted else accepted[0]
    return None if sent == "application/json" or sent.endswith("+json") else "application/json"


def _field_problem(detail: Mapping[str, Any]) -> FieldProblem:
    """One of pydantic's errors without its input. The name of an unknown field is input, too."""
    where = [_cut(str(part)) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        return FieldProblem(field=".".join(where[:-1]), message="A field is not known here", code=detail["type"])
    if detail["type"] == "json_invalid":
        return FieldProblem(field="body", message="The body is not valid JSON", code=detail["type"])
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"].removeprefix("Value error, ")
        return FieldProblem(field=".".join(where), message=message, code="invalid")
    return FieldProblem(field=".".join(where), message=detail["msg"], code=detail["type"])


def _cut(field: str) -> str:
    """The names of a dictionary's values are the caller's own, and as long as a body may be."""
    return field if len(field) <= _MOST_FIELD else f"{field[:_MOST_FIELD]}..."


async def on_database_error(request: Request, error: DBAPIError) -> Response:
    """409 or 422 for data that the schema refuses; anything else is our fault."""
    violation = violation_of(error)
    if violation is None:
        return await on_unexpected(request, error)
    status, detail = _VIOLATIONS[violation]
    return answer(request, status, detail)


async def on_database_unavailable(request: Request, error: DatabaseUnavailable) -> Response:
    """503: nothing was changed, and the caller may try again."""
    _log.error("database unavailable", reason=str(error), cause=repr(error.__cause__))
    headers = {"Retry-After": RETRY_AFTER_SECONDS}
    return answer(request, 503, f"{error.public}. Try again shortly.", headers=headers)


async def on_stale_version(request: Request, _error: StaleVersion | StaleDataError) -> Response:
    """412 for whoever named a version (If-Match), 409 for whoever did not."""
    status = 412 if "if-match" in request.headers else 409
    return answer(request, status, "It has been changed meanwhile. Read it again, then repeat the change.")


async def on_not_allowed(request: Request, _error: NotAllowed) -> Response:
    """403."""
    return answer(request, 403, "This is somebody else's: only they may change it.")


async def on_invalid_cursor(request: Request, _error: InvalidCursor) -> Response:
    """422."""
    problem = FieldProblem(
        field="query.cursor", message="Not a cursor of this list in this order. Start anew without it.", code="invalid"
    )
    return answer(request, 422, INVALID, errors=[problem])


async def on_disconnect(request: Request, _error: ClientDisconnect) -> Response:
    """The caller left before its body was whole: nobody reads this but the access log, where 499 says so."""
    return answer(request, 499)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """500, with the traceback in the log. Runs inside CORS, so that a page of another origin can read the answer."""
    _log.error("unexpected error", exc_info=error)
    return answer(request, 500, "An unexpected error. It has been logged.", error=error)


HANDLERS: dict[Any, Any] = {
    HTTPException: on_http_exception,
    RequestValidationError: on_invalid_request,
    WebSocketRequestValidationError: on_invalid_request,
    DBAPIError: on_database_error,
    DatabaseUnavailable: on_database_unavailable,
    NotAllowed: on_not_allowed,
    StaleVersion: on_stale_version,
    StaleDataError: on_stale_version,
    InvalidCursor: on_invalid_cursor,
    ClientDisconnect: on_disconnect,
    Replay: on_replay,
    Exception: on_unexpected,
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these problems; the OpenAPI document adds their form."""
    return {status: {"description": phrase_of(status)} for status in statuses}
