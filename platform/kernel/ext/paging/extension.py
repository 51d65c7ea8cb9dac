"""The extension `paging`."""

from fastapi import Request
from starlette.responses import Response

from kernel.ext.paging.sort import InvalidCursor
from kernel.extension import ApplicationBuilder, Extension
from kernel.web.problems import INVALID, FieldProblem, answer


class Paging(Extension):
    """Pages of lists, by offset or by cursor."""

    name = "paging"

    def configure(self, app: ApplicationBuilder) -> None:
        app.error_handlers[InvalidCursor] = _on_invalid_cursor


async def _on_invalid_cursor(request: Request, _error: InvalidCursor) -> Response:
    """Answer 422."""
    message = "The cursor does not belong to this list and sort order. Start again without a cursor."
    problem = FieldProblem(field="query.cursor", message=message, code="invalid")
    return answer(request, 422, INVALID, errors=[problem])
