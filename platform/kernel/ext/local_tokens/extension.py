"""The extension `local_tokens`."""

from kernel.ext.bearer_tokens.bearer import BearerTokens, TrustedKey
from kernel.ext.local_tokens import key
from kernel.extension import ApplicationBuilder, Extension
from kernel.settings import Environment


class LocalTokens(Extension):
    """Accepts the tokens of `kernel token` in LOCAL."""

    name = "local_tokens"
    requires = ("bearer_tokens",)

    def configure(self, app: ApplicationBuilder) -> None:
        path = key.path(app.settings.root)
        if app.settings.application.environment is Environment.LOCAL:
            app.get(BearerTokens).other_keys[key.NAME] = lambda: TrustedKey(key.public(path), ["EdDSA"], key.NAME, None)
