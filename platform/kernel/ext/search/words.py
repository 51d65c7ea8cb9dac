"""Search for words in text: through an index on PostgreSQL, row by row on SQLite."""

import unicodedata
from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, String, bindparam, event, literal_column
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# The name of `_has_words` in SQLite.
_FUNCTION = "kernel_has_words"
# Each lexeme that PostgreSQL finds in the query, as the beginning of a word. The pattern is a closing quote.
_QUERY = r"regexp_replace(plainto_tsquery('simple', {})::text, '''(?=\s|$)', ''':*', 'g')::tsquery"


def search_vector(text: str) -> str:
    """Return the SQL expression on which a GIN index serves `has_words` on PostgreSQL.

    `text` is the SQL expression that is searched. The query repeats it word for word, or the index is not used.
    """
    return f"to_tsvector('simple', normalize({text}))"


def has_words(text: str, query: str) -> ColumnElement[bool] | None:
    """Return the condition that the SQL expression `text` has all words of a query; None for a query without words.

    PostgreSQL splits text and query with its own parser, so that `AC/DC`, `10.5` and `Node.js` are words, and finds
    words by how they begin. SQLite finds them anywhere in the text. Letter case and Unicode's normal forms make no
    difference. The query is one parameter.
    """
    if not any(unicodedata.category(character)[0] in "LN" for character in query):
        return None
    wanted = bindparam(None, unicodedata.normalize("NFC", query), type_=String(), unique=True)
    return _HasWords(literal_column(text, String()), wanted)


def add_function(engine: AsyncEngine) -> None:
    """Give each new connection to SQLite the function that `has_words` calls there."""

    def add(connection: Any, _record: Any) -> None:
        connection.create_function(_FUNCTION, 2, _has_words, deterministic=True)

    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", add)


class _HasWords(FunctionElement[bool]):
    name = "has_words"
    inherit_cache = True
    type = Boolean()


@compiles(_HasWords, "postgresql")
def _on_postgresql(element: _HasWords, compiler: SQLCompiler, **options: Any) -> str:
    text, query = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{search_vector(text)} @@ {_QUERY.format(query)}"


@compiles(_HasWords, "sqlite")
def _on_sqlite(element: _HasWords, compiler: SQLCompiler, **options: Any) -> str:
    text, query = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{_FUNCTION}({text}, {query})"


def _has_words(text: str | None, query: str) -> bool:
    return text is not None and all(word in _folded(text) for word in _words(query))


@lru_cache
def _words(query: str) -> tuple[str, ...]:
    """The words of a query: what stands between spaces, without punctuation around it."""
    words = (_folded(word).strip("".join(filter(_is_punctuation, word))) for word in query.split())
    return tuple(word for word in words if word)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PSZC"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
