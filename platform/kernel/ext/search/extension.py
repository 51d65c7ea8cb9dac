"""The extension `search`."""

from kernel.ext.search.words import add_function
from kernel.extension import ApplicationBuilder, Extension


class Search(Extension):
    """Finds rows by the words in their text."""

    name = "search"

    def configure(self, app: ApplicationBuilder) -> None:
        app.pool.on_engine.append(add_function)
