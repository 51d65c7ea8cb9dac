"""Which tables a piece of SQL names: parsed, not searched for words."""

import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

# It says on its logger that it keeps a statement as it is (`CREATE TRIGGER`); those we read by their tokens.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_STATEMENT = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*"
    r"(select|insert|update|delete|with|create|alter|drop|truncate|merge|copy|grant|revoke|lock|refresh|set|table"
    r"|explain|comment|analyze|vacuum|do|declare|begin|reset|import)\b",
    re.IGNORECASE | re.DOTALL,
)
# A function whose text argument names a table or a sequence, and a cast that does.
_NAMING = re.compile(
    r"(nextval|setval|currval|set_config|to_regclass|pg_\w+|regclass|has_\w+_privilege|dblink\w*)$", re.IGNORECASE
)
# What a table's name follows.
_BEFORE_TABLE = frozenset(
    {
        "FROM",
        "JOIN",
        "INTO",
        "UPDATE",
        "TABLE",
        "ON",
        "TRUNCATE",
        "REFERENCES",
        "ONLY",
        "COPY",
        "USING",
        "VIEW",
        "VACUUM",
        "ANALYZE",
        "LOCK",
    }
)
_STRINGS = frozenset({TokenType.HEREDOC_STRING, TokenType.RAW_STRING})


class Named(NamedTuple):
    """A table as PostgreSQL understands its name: in small letters unless quoted. A schema alone has no table."""

    schema: str | None
    table: str | None


def is_statement(text: str) -> bool:
    """Whether a string reads like the start of a statement: its first word all in capitals or all in small letters."""
    found = _STATEMENT.match(text)
    return found is not None and found[1] in {found[1].upper(), found[1].lower()}


def tables(text: str, *, is_sql: bool = True) -> set[Named]:
    """The tables that a statement or a part of one names, without its CTEs and aliases.

    Text that is not known to be SQL must parse as a whole statement, or names none.
    """
    for start in ("", "SELECT ", "SELECT 1 ", "SELECT 1 FROM ") if is_sql else ("",):
        attempt = start + text
        try:
            parsed = [one for one in sqlglot.parse(attempt, dialect="postgres") if one is not None]
        except (SqlglotError, RecursionError):
            continue
        return {named for one in parsed for named in _named(one, attempt)}
    return set(_by_tokens(text)) if is_sql else set()


def changes_role(text: str) -> bool:
    """Whether a statement takes another role, which would undo the wall in the database."""
    words = [token.text.upper() for token in _tokens(text)]
    # A statement's first words: `UPDATE lefts SET role = 1` is about a column.
    starts = [place for place in range(len(words)) if not place or words[place - 1] == ";"]
    pairs = {tuple(words[start : start + 2]) for start in starts}
    triples = {tuple(words[start : start + 3]) for start in starts}
    return bool(
        pairs & {("SET", "ROLE"), ("RESET", "ROLE")}
        or triples & {("SET", "LOCAL", "ROLE"), ("SET", "SESSION", "ROLE"), ("SET", "SESSION", "AUTHORIZATION")}
    )


def _named(tree: exp.Expr, text: str) -> Iterator[Named]:
    if any(isinstance(node, exp.Command | exp.Set | exp.Grant | exp.Revoke) for node in tree.walk()):
        yield from _by_tokens(text)
        return
    for node in tree.walk():
        if isinstance(node, exp.Table) and node.args.get("db") and not node.name:
            yield Named(_folded(node.args["db"]), None)
        elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            if node.args.get("db") or node.name.lower() not in _ctes_around(node):
                yield Named(_folded(node.args.get("db")), _folded(node.this))
        elif (
            isinstance(node, exp.Dot)
            and isinstance(node.expression, exp.Func)
            and isinstance(node.this, exp.Identifier)
        ):
            yield Named(_folded(node.this), None)
        elif isinstance(node, exp.Column) and node.args.get("db"):
            yield Named(_folded(node.args["db"]), _folded(node.args.get("table")))
        elif isinstance(node, exp.Literal | exp.RawString | exp.Heredoc) and (
            node.is_string or not isinstance(node, exp.Literal)
        ):
            yield from _in_text(node)


def _folded(name: exp.Expr | None) -> str | None:
    if not isinstance(name, exp.Identifier):
        return None  # a parameter stands for whatever it is given
    return name.name if name.quoted else name.name.lower()


def _ctes_around(node: exp.Expr) -> set[str]:
    names: set[str] = set()
    parent: exp.Expr | None = node
    while parent is not None:
        clause = parent.args.get("with_") or parent.args.get("with")
        if isinstance(clause, exp.With):
            names |= {cte.alias.lower() for cte in clause.expressions}
        parent = parent.parent
    return names


def _in_text(node: exp.Expr) -> Iterator[Named]:
    """What a text inside SQL names: the body of a function, or the argument of nextval."""
    text, around = str(node.this), node.parent
    is_body = isinstance(node, exp.RawString | exp.Heredoc) or node.find_ancestor(exp.Create) is not None
    if is_body and (is_statement(text) or "$" in text or "\n" in text or " " in text):
        yield from _by_tokens(text)
    while around is not None and not isinstance(around, exp.Func | exp.Cast | exp.Anonymous):
        around = around.parent
    name = around.name if isinstance(around, exp.Anonymous) else type(around).__name__ if around else ""
    if isinstance(around, exp.Cast):
        name = around.to.sql(dialect="postgres")
    if _NAMING.search(name):
        yield from _path(text)


def _path(text: str) -> Iterator[Named]:
    parts = [part.strip() for part in text.split(",", maxsplit=1)[0].split(".")]
    parts = [part.strip('"') if part.startswith('"') else part.lower() for part in parts]
    if len(parts) == 1:
        yield from (Named(None, parts[0]), Named(parts[0], None))
    else:
        yield Named(parts[-2], parts[-1])


def _by_tokens(text: str) -> Iterator[Named]:
    """For what the parser does not know: names with a schema, and names where a table's would stand."""
    tokens = _tokens(text)
    quoted = {TokenType.IDENTIFIER, TokenType.STRING, *_STRINGS}
    words = [token.text if token.token_type in quoted else token.text.lower() for token in tokens]
    is_path = len(words) > 1 and "SEARCH_PATH" in {word.upper() for word in words[:4]}
    for place, token in enumerate(tokens):
        if token.token_type in _STRINGS:
            yield from _by_tokens(token.text)
        elif token.token_type == TokenType.STRING:
            if is_path:
                yield Named(token.text, None)
            elif _is_naming(words, place):
                yield from _path(token.text)
        elif re.fullmatch(r"\w+", token.text):
            before = words[place - 1].upper() if place else ""
            after = words[place + 1] if place + 1 < len(words) else ""
            if after == "." and place + 2 < len(words):
                yield Named(words[place], words[place + 2])
            elif before in _BEFORE_TABLE and after != "(":
                yield Named(None, words[place])
            elif is_path or before == "SCHEMA":
                yield Named(words[place], None)


def _is_naming(words: list[str], place: int) -> bool:
    around = [*words[max(place - 2, 0) : place], *words[place + 1 : place + 3]]
    return any(_NAMING.fullmatch(word) for word in around)


def _tokens(text: str) -> list[Token]:
    try:
        tokens = list(sqlglot.tokenize(text, read="postgres"))
    except SqlglotError:
        return []
    rest = text[tokens[0].end + 1 :].strip() if tokens else ""
    if len(tokens) > 1 and tokens[1].token_type == TokenType.STRING and not rest.startswith(("'", "e'", "E'")):
        # Of a statement that it does not know, the tokenizer keeps all but the first word as one string.
        return [tokens[0], *_tokens(rest)]
    return tokens
