"""The extension `local_tokens`."""

from kernel.auth.bearer import TrustedKey
from kernel.ext.local_tokens import key
from kernel.extension import ApplicationBuilder, Extension
from kernel.settings import Environment


class LocalTokens(Extension):
    """Accepts the tokens of `kernel token` in LOCAL."""

    name = "local_tokens"

    def configure(self, app: ApplicationBuilder) -> None:
        path = key.path(app.settings.root)
        if app.settings.application.environment is Environment.LOCAL:
            app.token_keys[key.NAME] = lambda: TrustedKey(key.public(path), ["EdDSA"], key.NAME, None)
