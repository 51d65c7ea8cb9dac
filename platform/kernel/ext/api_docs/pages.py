"""The documentation pages. Their scripts come from a package, so that they need no internet."""

from importlib.resources import files

from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"
# Both pages contain a script; all files come from this server.
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
}


def pages(title: str, openapi_url: str) -> list[BaseRoute]:
    """Return the routes of /docs (Swagger UI), /redoc and their files."""

    async def swagger(request: Request) -> HTMLResponse:
        base = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{base}{openapi_url}",
            title=title,
            swagger_js_url=f"{base}{ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{base}{ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{base}{ASSETS_PATH}/favicon.png",
        )
        return HTMLResponse(page.body, headers=_POLICY)

    async def redoc(request: Request) -> HTMLResponse:
        base = request.scope.get("root_path", "").rstrip("/")
        page = get_redoc_html(
            openapi_url=f"{base}{openapi_url}",
            title=title,
            redoc_js_url=f"{base}{ASSETS_PATH}/redoc.standalone.js",
            redoc_favicon_url=f"{base}{ASSETS_PATH}/favicon.png",
            with_google_fonts=False,
        )
        return HTMLResponse(page.body, headers=_POLICY)

    return [
        Mount(ASSETS_PATH, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets"),
        Route("/docs", swagger, include_in_schema=False),
        Route("/redoc", redoc, include_in_schema=False),
    ]
