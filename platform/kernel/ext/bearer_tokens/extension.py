"""The extension `bearer_tokens`."""

from kernel.ext.bearer_tokens.bearer import BearerTokens
from kernel.ext.bearer_tokens.settings import BearerSettings
from kernel.extension import ApplicationBuilder, Extension


class BearerTokensExtension(Extension):
    """Authenticates callers by signed JSON Web Tokens."""

    name = "bearer_tokens"
    packages = ("jwt", "cryptography")
    settings = (BearerSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        tokens = BearerTokens(app.settings.group(BearerSettings), app.http)
        app.authentication = tokens
        app.provide(tokens)
