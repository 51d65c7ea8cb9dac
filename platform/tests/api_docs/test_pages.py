"""The documentation pages work without the internet."""

from pathlib import Path

from kernel.application import create_app
from kernel.testing import settings_for
from kernel.testing.booting import talking_to


async def test_the_pages_load_nothing_from_other_servers(root: Path, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    app = create_app(settings_for(tmp_path, {}))
    async with talking_to(app) as client:
        for page in ("/docs", "/redoc"):
            text = (await client.get(page)).text
            assert "//" not in text.replace("<!-- `SwaggerUIBundle`", "").replace("// ", "")
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png"):
            assert (await client.get(f"/docs/assets/{asset}")).status_code == 200
