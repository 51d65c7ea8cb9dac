"""The extension `openapi`."""

from typing import Any

from kernel.ext.openapi.document import ANY_FAILURE, document_problems, document_scopes
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class OpenApi(Extension):
    """Adds problem details and the scopes of each operation to the OpenAPI document."""

    name = "openapi"

    def configure(self, app: ApplicationBuilder) -> None:
        app.fastapi_options["responses"] = ANY_FAILURE

    def assemble(self, kernel: Kernel) -> None:
        def complete(schema: dict[str, Any]) -> None:
            for module in kernel.modules:
                if module.router is not None:
                    document_scopes(schema, "" if module.router.prefix else module.prefix, module.router)
            document_problems(schema)

        kernel.builder.openapi_steps.append(complete)
