"""The documentation pages, with their scripts from a package: they work without the internet."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"
# Both pages carry a script of their own; everything is loaded from here.
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
}


def add_docs(app: FastAPI) -> None:
    """Serve /docs (Swagger UI) and /redoc for `app.openapi_url`."""
    app.mount(ASSETS_PATH, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    async def swagger(request: Request) -> HTMLResponse:
        base = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{base}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{base}{ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{base}{ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{base}{ASSETS_PATH}/favicon.png",
        )
        return HTMLResponse(page.body, headers=_POLICY)

    async def redoc(request: Request) -> HTMLResponse:
        base = request.scope.get("root_path", "").rstrip("/")
        page = get_redoc_html(
            openapi_url=f"{base}{app.openapi_url}",
            title=app.title,
            redoc_js_url=f"{base}{ASSETS_PATH}/redoc.standalone.js",
            redoc_favicon_url=f"{base}{ASSETS_PATH}/favicon.png",
            with_google_fonts=False,
        )
        return HTMLResponse(page.body, headers=_POLICY)

    app.add_route("/docs", swagger, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
