"""Errors as problem details (RFC 9457): one format for every failure, never including input of the caller."""

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
from kernel.http_client import UpstreamFailed
from kernel.modules.contracts import ContractUnavailable
from kernel.web.context import find_context

_log = structlog.get_logger("kernel.errors")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"


class FieldProblem(BaseModel):
    """An error in one part of a request."""

    field: str = Field(description="Where: `body.title`, `query.limit`, `path.event_id`, `header.if-match`.")
    message: str
    code: str = Field(description="A stable identifier of the kind of error.")


# RFC 9457 allows only text, but the detail of FastAPI's HTTPException may be any JSON value.
Detail = str | int | float | bool | list[Any] | dict[str, Any] | None


class ProblemDetails(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: Detail = Field(
        None, description="The cause of this error and what to do: text, unless the handler gives another JSON value."
    )
    request_id: str | None = Field(None, description="Quote this id when you report the error.")
    errors: list[FieldProblem] | None = None
    traceback: list[str] | None = Field(None, description="Only in debug mode.")


class Problem(HTTPException):
    """Base of the errors that a handler raises to end a request. Raise a subclass, or an HTTPException of FastAPI."""

    status: ClassVar[int] = 500

    def __init__(
        self, detail: str, *, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.status, detail, dict(headers or {}))
        self.errors = list(errors)


class Unauthorized(Problem):
    """401: the caller must authenticate with valid credentials."""

    status = 401


class Forbidden(Problem):
    """403: the caller is authenticated and lacks permission."""

    status = 403


class NotFound(Problem):
    """404."""

    status = 404


class Conflict(Problem):
    """409."""

    status = 409


class ContentTooLarge(Problem):
    """413."""

    status = 413


class Unprocessable(Problem):
    """422 for one field of the body: `raise Unprocessable("image_id", "no image has this id")`."""

    status = 422

    def __init__(self, field: str, message: str, *, code: str = "invalid", part: str = "body") -> None:
        error = FieldProblem(field=f"{part}.{field}", message=message, code=code)
        super().__init__(INVALID, errors=[error])


class Unavailable(Problem):
    """503: a dependency is down or busy. The caller can try again."""

    status = 503

    def __init__(self, detail: str, *, errors: Sequence[FieldProblem] = (), retry_after_seconds: int = 1) -> None:
        super().__init__(detail, errors=errors, headers={"Retry-After": str(retry_after_seconds)})


Thing = TypeVar("Thing")


def or_404(thing: Thing | None, what: str) -> Thing:
    """Return the thing. Raises NotFound if it is None or False: `or_404(await events.get_by_id(id), "event")`."""
    if thing is None or thing is False:
        raise NotFound(f"There is no such {what}.")
    return thing


_MAX_FIELD = 100
# The system writes at most 4,096 bytes to a pipe atomically, and a character in a log line takes up to twelve: so the
# lines of several workers do not mix.
_MAX_LOGGED = 256
MOST_ERRORS = 100
TOO_MANY = "too_many_errors"
INVALID = "The request is not valid: see errors."
_VIOLATIONS: dict[Violation, tuple[int, str]] = {
    "unique": (409, "A record with the same unique value already exists."),
    "reference": (409, "A record refers to another one that does not exist, or is still referred to."),
    "missing": (422, "A required value is missing."),
    "check": (422, "A value violates a constraint of the database."),
    "value": (422, "A value is out of range."),
}


def phrase_of(status: int) -> str:
    """Return the reason phrase of the status, or "Error" for a status without one (499)."""
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
    """Return a response with problem details."""
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
    """Return the detail as a JSON value: models become objects, and values that JSON cannot represent become text."""
    try:
        plain = to_jsonable_python(detail, bytes_mode="base64", serialize_unknown=True)
        text = json.dumps(plain, ensure_ascii=False)
    except (ValueError, TypeError):  # a circular reference, or keys that are not text
        text = json.dumps(str(detail), ensure_ascii=False)
    # A lone surrogate is valid in JSON but not in UTF-8: it becomes a question mark.
    return json.loads(text.encode(errors="replace"), parse_constant=lambda _: None)


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    """Answer a Problem or an HTTPException of FastAPI or Starlette."""
    # FastAPI answers 400 for every error while it reads a form, including a full disk.
    if error.status_code == 400 and isinstance(error.__cause__, OSError):
        _log.error("body not written to a temporary file", exc_info=error.__cause__)
        more = True
        with suppress(HTTPException):  # the body may also be over the limit
            while more:  # a client that is still sending when the connection closes does not see the response
                more = (await request.receive()).get("more_body", False)
        return answer(request, 507, "The server has no disk space left for the request body.")
    errors = error.errors if isinstance(error, Problem) else ()
    return answer(request, error.status_code, error.detail, errors=errors, headers=error.headers)


async def on_invalid_request(
    request: Request, error: RequestValidationError | WebSocketRequestValidationError
) -> Response:
    """Answer 422, or 415 if the body has a media type that the route does not read."""
    expected = _expected_media_type(request)
    if expected is not None and any(detail["loc"][:1] == ("body",) for detail in error.errors()):
        return answer(request, 415, f"Send the body as {expected}.", headers={"Accept": expected})
    found = error.errors()
    shown = [_field_problem(detail) for detail in found[: MOST_ERRORS + 1]]
    # An extension may have limited the errors of each value already.
    if len(found) > MOST_ERRORS and not any(detail["type"] == TOO_MANY for detail in found):
        shown[-1] = FieldProblem(field=str(found[0]["loc"][0]), message=too_many(len(found)), code=TOO_MANY)
    return answer(request, 422, INVALID, errors=shown)


def too_many(count: int) -> str:
    """Return the message that follows the first errors: one megabyte of unknown fields has 90,000 of them."""
    return f"There are {count:,} errors; the first {MOST_ERRORS} are listed"


def _expected_media_type(request: Request) -> str | None:
    """Return the media type that the route reads if the request has another, otherwise None."""
    body_field = getattr(request.scope.get("route"), "body_field", None)
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body_field is None or not sent:
        return None
    if type(body_field.field_info).__name__ in {"Form", "File"}:
        accepted: tuple[str, ...] = ("multipart/form-data", "application/x-www-form-urlencoded")
        return None if sent in accepted else accepted[0]
    return None if sent == "application/json" or sent.endswith("+json") else "application/json"


def _field_problem(detail: Mapping[str, Any]) -> FieldProblem:
    """Convert an error of pydantic, without the input. The name of an unknown field is input, too."""
    where = [shortened(str(part), _MAX_FIELD) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        return FieldProblem(field=".".join(where[:-1]), message="An unknown field", code=detail["type"])
    if detail["type"] == "json_invalid":
        return FieldProblem(field="body", message="The body is not valid JSON", code=detail["type"])
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"].removeprefix("Value error, ")
        return FieldProblem(field=".".join(where), message=message, code="invalid")
    return FieldProblem(field=".".join(where), message=detail["msg"], code=detail["type"])


def shortened(text: str, most: int = _MAX_LOGGED) -> str:
    """Return the beginning of a text of the caller, which may be as long as the body."""
    return text if len(text) <= most else f"{text[:most]}..."


async def on_database_error(request: Request, error: DBAPIError) -> Response:
    """Answer 409 or 422 if the data violates a constraint, otherwise 500."""
    violation = violation_of(error)
    if violation is None:
        return await on_unexpected(request, error)
    status, detail = _VIOLATIONS[violation]
    return answer(request, status, detail)


async def on_unavailable(
    request: Request, error: DatabaseUnavailable | ContractUnavailable | UpstreamFailed
) -> Response:
    """Answer 503: nothing was changed, and the caller can try again."""
    what, public = "contract", "Something that this needs is not available"
    if isinstance(error, DatabaseUnavailable):
        what, public = "database", error.public
    elif isinstance(error, UpstreamFailed):
        what = "upstream"
    _log.error(f"{what} unavailable", reason=str(error), cause=repr(error.__cause__))
    return answer(request, 503, f"{public}. Try again shortly.", headers={"Retry-After": RETRY_AFTER_SECONDS})


async def on_stale_version(request: Request, _error: StaleVersion | StaleDataError) -> Response:
    """Answer 412 if the request has If-Match, otherwise 409."""
    status = 412 if "if-match" in request.headers else 409
    return answer(request, status, "The resource has been changed since. Read it again, then repeat the change.")


async def on_not_allowed(request: Request, _error: NotAllowed) -> Response:
    """Answer 403."""
    return answer(request, 403, "Only the owner can change this.")


async def on_disconnect(request: Request, _error: ClientDisconnect) -> Response:
    """Answer 499 for the access log: the client disconnected before it had sent the whole body."""
    return answer(request, 499)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Answer 500 and log the traceback. Runs inside CORS, so that a page of another origin can read the response."""
    _log.error("unexpected error", exc_info=error)
    return answer(request, 500, "An unexpected error. It has been logged.", error=error)


HANDLERS: dict[Any, Any] = {
    HTTPException: on_http_exception,
    **dict.fromkeys((RequestValidationError, WebSocketRequestValidationError), on_invalid_request),
    DBAPIError: on_database_error,
    **dict.fromkeys((DatabaseUnavailable, ContractUnavailable, UpstreamFailed), on_unavailable),
    NotAllowed: on_not_allowed,
    **dict.fromkeys((StaleVersion, StaleDataError), on_stale_version),
    ClientDisconnect: on_disconnect,
    Exception: on_unexpected,
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route for these statuses. The OpenAPI document adds their schema."""
    return {status: {"description": phrase_of(status)} for status in statuses}
