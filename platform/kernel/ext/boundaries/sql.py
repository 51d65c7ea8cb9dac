"""Find the tables that SQL names, by parsing it."""

import logging
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

# sqlglot logs a warning for a statement that it does not parse (`CREATE TRIGGER`). These are read by their tokens.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_FIRST_WORD = re.compile(r"(?>\s|\(|--[^\n]*\n|/\*.*?\*/)*+(\w+)", re.DOTALL)
# The first words of statements, and words of which one must follow: "update images" is not a statement.
_FOLLOWED_BY = {
    **dict.fromkeys(("insert", "merge"), "into"), "update": "set", "delete": "from", "with": "as",
    "select": r"from|[^\s(]+\(", "copy": "(?:from|to) (?:stdin|stdout|program|')",
    "lock": "table", "truncate": "table", "refresh": "materialized",
    **dict.fromkeys(("create", "alter", "drop", "comment"), "table|view|materialized|index|sequence|schema|type|domain"
    "|function|procedure|trigger|policy|rule|foreign|extension|role|column|owned"),
    "grant": "on|to", "revoke": "on|from", "explain": "select|insert|update|delete|with", "import": "foreign",
    "set": "role|session|local|search_path", "reset": "role", "do": r"[$']", "declare": "cursor|begin", "begin": ";",
}  # fmt: skip
# Statements that the first word alone identifies, in capitals.
_ALONE = frozenset({"TRUNCATE", "VACUUM", "ANALYZE"})
# Functions and casts whose text argument names a table or a sequence.
_NAMING = re.compile(
    r"(nextval|setval|currval|to_regclass|pg_\w*relation\w*|pg_table_size|pg_indexes_size|pg_get_serial_sequence"
    r"|regclass|has_\w+_privilege|table_to_xml\w*|schema_to_xml\w*)$",
    re.IGNORECASE,
)
# Functions that run the statements in their arguments.
_RUNNING = re.compile(r"(query_to_xml\w*|dblink\w*|cron_schedule\w*)$", re.IGNORECASE)
# Words before the name of a table.
_BEFORE_TABLE = frozenset(
    {
        "FROM", "JOIN", "INTO", "UPDATE", "TABLE", "ON", "TRUNCATE", "REFERENCES", "ONLY", "COPY", "USING", "VIEW",
        "VACUUM", "ANALYZE", "LOCK", "INHERIT",
    }
)  # fmt: skip
# Names in PL/pgSQL that are not tables: CTEs, variables, parameters and aliases.
_CTES = re.compile(r"\b(?:with|recursive) (\w+)|(\w+) as (?:(?:not )?materialized )?\(")
_VARIABLES = re.compile(r"\bfor (\w+) in\b|(?<=[(,] )(?:in |out |inout |variadic )?(\w+) \w+(?=[^()]*\) returns)")
_DECLARED = re.compile(r"\bdeclare (.*?) begin\b", re.DOTALL)
_ALIASES = re.compile(r"\b(?:from|join|update|using) (?:\w+ \. )?\w+ (?:as )?(\w+)")
_STRINGS = frozenset({TokenType.HEREDOC_STRING, TokenType.RAW_STRING})


class Named(NamedTuple):
    """A table name as PostgreSQL reads it: lower case unless quoted. A schema alone has no table."""

    schema: str | None
    table: str | None


def is_statement(text: str) -> bool:
    """Return whether a text has the shape of a statement: a first word in one case, and a word that must follow."""
    found = _FIRST_WORD.match(text)
    first = found[1] if found else ""
    if first in _ALONE:
        return True
    others = _FOLLOWED_BY.get(first.lower()) if first in {first.upper(), first.lower()} else None
    return bool(found and others and re.search(rf"(?<!\w)(?:{others})", text[found.end() :], re.IGNORECASE))


def tables(text: str, *, is_sql: bool = True) -> set[Named]:
    """Return the tables that a statement or a part of one names, without its CTEs and aliases.

    A text that may not be SQL must parse as a whole statement; otherwise it names no table.
    """
    for start in ("", "SELECT ", "SELECT 1 ", "SELECT 1 FROM ") if is_sql else ("",):
        attempt = start + text
        try:
            parsed = [one for one in sqlglot.parse(attempt, dialect="postgres") if one is not None]
        except Exception:  # noqa: BLE001, S112  # the parser may fail in any way; the tokens can still be read
            continue
        return {named for one in parsed for named in _named(one, attempt)}
    return set(_by_tokens(text)) if is_sql else set()


def forbidden(text: str, module: str) -> Iterator[str]:
    """Return what no module may do with any table: take a role, leave its schema, attach a database file."""
    words = [word.lower() for word in _words(_tokens(text))]
    joined = " ".join(words)
    starts = [
        place for place in range(len(words)) if not place or words[place - 1] in {";", "begin", "then", "else", "loop"}
    ]
    for start in starts:
        first = tuple(words[start : start + 4])
        if _ROLE.match(" ".join(first)) or _is_role_granted(words[start:]):
            yield "takes or grants a role, and with it the rights of another module."
        if first[:1] == ("attach",):
            yield "attaches another database file."
    if re.search(r"set_config \( role\b", joined):
        yield "takes or grants a role, and with it the rights of another module."
    if any(not _own_path(path, module) for path in _paths(words)):
        yield "changes the search path, and with it what every name without a schema means."
    for token in _tokens(text):
        is_body = token.token_type in _STRINGS or (token.token_type == TokenType.STRING and is_statement(token.text))
        if is_body and token.text != text:
            yield from forbidden(token.text, module)


_ROLE = re.compile(
    r"(?:set|reset) role\b|set (?:local|session) role\b|(?:set|reset) session authorization\b"
    r"|alter (?:role|user|group)\b|create (?:role|user|group)\b(?! mapping)|alter default privileges\b|security label\b"
)
_PATH_ITEM = re.compile(r"[\w$\"]+$")


def _is_role_granted(words: list[str]) -> bool:
    """Return whether a statement is `GRANT role TO role`. Rights on an object have an ON."""
    end = words.index(";") if ";" in words else len(words)
    return words[:1] == ["grant"] and "to" in words[:end] and "on" not in words[: words.index("to")]


def _paths(words: list[str]) -> Iterator[list[str]]:
    """Return the schemas of each search path that is set, as far as they are literals."""
    for place, word in enumerate(words):
        before, after = words[max(place - 3, 0) : place], words[place + 1 :]
        if word == "search_path" and "set" in before and after[:1] and after[0] in {"to", "="}:
            yield list(_listed(after[1:]))
        elif word == "schema" and before[-1:] and ("set" in before[-2:]) and "table" not in words[:place]:
            yield list(_listed(after))
        elif word == "set_config" and after[:1] == ["("] and after[1:3] == ["search_path", ","]:
            yield [part for one in after[3:4] for part in one.split(",")]
        elif word == "set_config" and after[:1] == ["("] and (after[1:2] or [""])[0] in {":", "$", "%", "?"}:
            yield [":"]


def _listed(words: list[str]) -> Iterator[str]:
    """Return the schemas of `a, b` at the start of the words."""
    for place in range(0, len(words), 2):
        yield from words[place].split(",")
        if words[place + 1 : place + 2] != [","]:
            return


def _own_path(schemas: list[str], module: str) -> bool:
    return all(one.strip(" \"'") in {module, "pg_catalog", "pg_temp", "information_schema"} for one in schemas)


def _named(tree: exp.Expr, text: str) -> Iterator[Named]:
    if any(isinstance(node, exp.Command | exp.Set | exp.Grant | exp.Revoke) for node in tree.walk()):
        yield from _by_tokens(text)
        return
    for node in tree.walk():
        if isinstance(node, exp.Table) and node.args.get("db") and not node.name:
            yield Named(_folded(node.args["db"]), None)
        elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            if node.args.get("db") or not (node.name.lower() in _ctes_around(node) or _is_own(node)):
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
            yield from _in_text(node, text)


def _folded(name: exp.Expr | None) -> str | None:
    if not isinstance(name, exp.Identifier):
        return None  # the value of a parameter is not known
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


def _is_own(node: exp.Expr) -> bool:
    """Return whether a name is the created object, a type, an index, or a locked alias, instead of a used table."""
    top = node.parent if isinstance(node.parent, exp.Schema | exp.UserDefinedFunction) else node
    around = top.parent
    if isinstance(around, exp.Drop | exp.Comment | exp.Alter):
        return str(around.args.get("kind")).upper() not in {"TABLE", "VIEW", "COLUMN"}
    return isinstance(around, exp.Lock) or (isinstance(around, exp.Create) and around.this is top)


def _in_text(node: exp.Expr, whole: str) -> Iterator[Named]:
    """Return the tables that a text inside SQL names: the body of a function, or the argument of nextval."""
    text, around = str(node.this), node.parent
    made = node.find_ancestor(exp.Create)
    if made is not None and str(made.args.get("kind")).upper() in {"FUNCTION", "PROCEDURE"}:
        yield from _by_tokens(text, _variables(" ".join(_words(_tokens(whole)))))
    while around is not None and not isinstance(around, exp.Func | exp.Cast | exp.Anonymous):
        around = around.parent
    name = around.name if isinstance(around, exp.Anonymous) else type(around).__name__ if around else ""
    if isinstance(around, exp.Cast):
        name = around.to.sql(dialect="postgres")
    if isinstance(around, exp.Anonymous) and name.lower() == "set_config":
        first = around.expressions[0]
        yield from _schemas(text) if first is not node and first.name.lower() == "search_path" else ()
    elif _RUNNING.search(name):
        yield from _by_tokens(text) if is_statement(text) else ()
    elif _NAMING.search(name):
        yield from _path(text, name)


def _schemas(path: str) -> Iterator[Named]:
    yield from (Named(_bare(part), None) for part in path.split(","))


def _bare(part: str) -> str:
    part = part.strip()
    return part.strip('"') if part.startswith('"') else part.lower()


def _path(text: str, function: str) -> Iterator[Named]:
    parts = [_bare(part) for part in text.split(",", maxsplit=1)[0].split(".")]
    is_schema = len(parts) == 1 and "schema" in function.lower()
    yield Named(parts[0], None) if is_schema else Named(parts[-2] if len(parts) > 1 else None, parts[-1])


def _variables(text: str) -> frozenset[str]:
    """Return the names of variables in PL/pgSQL, from its words."""
    declared = [part.split(maxsplit=1)[0] for each in _DECLARED.findall(text) for part in each.split(" ; ") if part]
    return frozenset([*declared, *_found(_VARIABLES, text)])


def _found(names: re.Pattern[str], text: str) -> Iterator[str]:
    yield from (name for match in names.finditer(text) for name in match.groups() if name)


def _by_tokens(text: str, outer: frozenset[str] = frozenset()) -> Iterator[Named]:
    """Return names with a schema, and names in the position of a table, from SQL that the parser does not know."""
    tokens = _tokens(text)
    words = _words(tokens)
    all_of_it = " ".join(words)
    ctes, variables = set(_found(_CTES, all_of_it)), outer | _variables(all_of_it)
    own = ctes | variables | set(_found(_ALIASES, all_of_it))
    is_path = len(words) > 1 and "SEARCH_PATH" in {word.upper() for word in words[:4]}
    for place, token in enumerate(tokens):
        if token.token_type in _STRINGS:
            yield from _by_tokens(token.text, variables)
        elif token.token_type == TokenType.STRING:
            yield from _schemas(token.text) if is_path else _by_string(words, place)
        elif re.fullmatch(r"\w+", token.text):
            word, before = words[place], words[place - 1].upper() if place else ""
            after = words[place + 1] if place + 1 < len(words) else ""
            is_table = before in _BEFORE_TABLE and not _is_value(words[: place - 1], before)
            if special := _special(words, place):
                yield special
            elif after == "." and place + 2 < len(words):
                if is_table or word not in own:
                    yield Named(word, words[place + 2])
            elif is_table and word not in (variables if before == "USING" else ctes):
                yield from [Named(None, word)] if after != "(" or before in {"INTO", "ON", "REFERENCES"} else []
            elif is_path or before == "SCHEMA":
                yield Named(word, None)


def _special(words: list[str], place: int) -> Named | None:
    """Return the table of `table.column%TYPE` or of OWNED BY, or the role of OWNER TO."""
    word, before, after = words[place], words[max(place - 2, 0) : place], words[place + 1 : place + 5]
    is_column = before == ["owned", "by"] and after[:1] == ["."]
    if is_column or after[:2] in (["%", "rowtype"], ["%", "type"]) or after[2:] == ["%", "type"]:
        return Named(None, word)
    return Named(word, None) if before in (["owned", "by"], ["owner", "to"]) else None


def _by_string(words: list[str], place: int) -> Iterator[Named]:
    """Return the tables that a text between tokens names: the argument of nextval, or an executed statement."""
    near = [*words[max(place - 2, 0) : place], *words[place + 1 : place + 3]]
    if words[max(place - 4, 0) : place - 1] == ["set_config", "(", "search_path"]:
        yield from _schemas(words[place])
    elif function := next((word for word in near if _NAMING.fullmatch(word)), None):
        yield from _path(words[place], function)
    elif "execute" in words[max(place - 3, 0) : place] and is_statement(words[place]):
        filling = iter(words[place + 2 :: 2])  # the literal arguments of format()
        yield from _by_tokens(re.sub("%[IsL]", lambda _: next(filling, "unknown_"), words[place]))
    elif words[max(place - 1, 0) : place] == ["do"]:
        yield from _by_tokens(words[place])


def _is_value(words: list[str], before: str) -> bool:
    """Return whether no table follows, as after SELECT ... INTO (a variable) and IS DISTINCT FROM."""
    last = words[-1] if words else ""
    return (before == "FROM" and last == "distinct") or (
        before == "INTO" and last not in {"insert", "merge", "replace", ""}
    )


def _words(tokens: list[Token]) -> list[str]:
    """Return the texts of tokens, in lower case unless quoted."""
    quoted = {TokenType.IDENTIFIER, TokenType.STRING, *_STRINGS}
    return [token.text if token.token_type in quoted else token.text.lower() for token in tokens]


def _tokens(text: str) -> list[Token]:
    try:
        tokens = list(sqlglot.tokenize(text, read="postgres"))
    except SqlglotError:
        return []
    found = tokens[:1]
    for before, token in pairwise(tokens):
        rest = text[before.end + 1 :].lstrip() if token.token_type == TokenType.STRING else ""
        # For an unknown statement, the tokenizer returns everything after the first word as one string.
        found += _tokens(token.text) if rest and rest.startswith(token.text) else [token]
    return found
