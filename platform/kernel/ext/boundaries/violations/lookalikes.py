"""Valid examples for own-tables: names and texts that resemble the tables of another module."""

from kernel.ext.boundaries.violations import Case, edit
from kernel.ext.boundaries.violations.data import MIGRATION, MODELS, REPOSITORY, entity, sql, step

# The tables of messages, which every module declares by the same names.
_MESSAGES = (
    "from kernel.ext.messaging import InboxTable, OutboxTable\n\n"
    'class Outbox(OutboxTable, Base):\n    __tablename__ = "outbox"\n\n'
    'class Inbox(InboxTable, Base):\n    __tablename__ = "inbox"\n'
)

_MINE = 'class Mine(Base):\n    __tablename__ = "rights"\n    id: Mapped[int] = mapped_column(primary_key=True)\n'

VALID_OWN_TABLES = [
    entity(
        "the module's own foreign key and relationship",
        'left_id: Mapped[int] = mapped_column(ForeignKey("lefts.id"))\nleft: Mapped["Left"] = relationship()',
    ),
    edit("a table of the same name", MODELS, _MINE),
    Case(
        "SQL on the module's own table of the same name",
        {
            REPOSITORY: 'X = text("SELECT * FROM rights")',
            MODELS: _MINE,
        },
    ),
    edit("an association table", MODELS, 'X = Table("rights", Base.metadata)'),
    edit(
        "an entity of the same name",
        MODELS,
        'class Right(Base):\n    __tablename__ = "own"\n    id: Mapped[int] = mapped_column(primary_key=True)\n'
        '    up_id: Mapped[int] = mapped_column(ForeignKey("own.id"))\n    up: Mapped["Right"] = relationship()\n',
    ),
    sql("the module's own table", "SELECT * FROM lefts"),
    sql("the module's own schema", "SELECT * FROM left.lefts"),
    sql("a quoted name with capitals is another table", 'SELECT * FROM "Rights"'),
    sql("a CTE of that name", "WITH rights AS (SELECT 1 AS id) SELECT * FROM rights"),
    sql("an alias of that name", "SELECT rights.id FROM lefts AS rights"),
    sql("a column of that name", "SELECT rights FROM lefts"),
    sql("a column under that name", "SELECT id AS rights FROM lefts"),
    sql("a comment in SQL", "SELECT 1 -- FROM right.rights"),
    sql("a text in SQL", "SELECT 'FROM right.rights'"),
    sql("a statement kept as text", "INSERT INTO lefts (t) VALUES ('SELECT * FROM rights')"),
    sql("a parameter of that name", "SELECT * FROM lefts WHERE id = :rights"),
    sql("a function on columns", "to_tsvector('simple', title || ' ' || rights)"),
    sql("a system table", "SELECT * FROM pg_catalog.pg_class"),
    edit("a comment", REPOSITORY, "# SELECT * FROM right.rights"),
    edit("a docstring", REPOSITORY, 'def f():\n    """SELECT * FROM right.rights"""\n'),
    edit("prose", REPOSITORY, 'X = "Select rights from the list, or update rights as you like."'),
    edit("a message", REPOSITORY, 'X = "rights of left were deleted from rights"'),
    edit("a path", "modules/left/router.py", 'X = "/api/v1/right/rights"'),
    edit("a tag", "modules/left/router.py", 'TAGS = ["right", "rights"]'),
    edit("a local variable", REPOSITORY, "def f(rights):\n    right = rights[0]\n    return right\n"),
    edit("another's schema as a plain word", REPOSITORY, 'X = {"side": "right"}'),
    edit("a selected column's label", REPOSITORY, 'X = select(Left.id.label("rights"))'),
    step("the module's own column", 'op.add_column("lefts", sa.Column("rights", sa.Integer))'),
    step("an index named as another's table", 'op.create_index("rights", "lefts", ["id"])'),
    edit("a schema in a log", REPOSITORY, 'def f(log):\n    log.info("seen", schema="right")\n'),
    step("a constraint of the module's own", 'op.create_unique_constraint("uq_lefts", "lefts", ["id"])'),
    edit(
        "small letters in a log",
        REPOSITORY,
        'def f(log):\n    log.info("update rights")\n    log.info("delete from rights")\n',
    ),
    edit(
        "small letters anywhere",
        REPOSITORY,
        'LABELS = ["update rights", "copy rights", "delete rights", "lock rights"]',
    ),
    edit("an error", REPOSITORY, 'def f():\n    raise LookupError("delete from rights")\n'),
    edit("a verb of HTTP", "modules/left/router.py", 'X = "DELETE rights"'),
    edit(
        "a batch's columns",
        MIGRATION,
        'def s() -> None:\n    with op.batch_alter_table("lefts") as b:\n        b.drop_column("rights")\n'
        '        b.alter_column("rights", new_column_name="x")\n',
    ),
    edit(
        "methods of other libraries",
        "modules/left/service.py",
        'def f(c):\n    c.stream("right.rights.id")\n    c.fetch("update rights")\n    c.text("right.rights")\n',
    ),
    sql("a channel", "SELECT pg_notify('rights', 'right')"),
    sql("a setting", "SELECT set_config('right.rights', 'rights', true)"),
    edit(
        "a channel through SQLAlchemy",
        REPOSITORY,
        'from sqlalchemy import func\nX = func.pg_notify("right", "rights")',
    ),
    sql("a locked alias", "SELECT * FROM lefts AS rights FOR UPDATE OF rights"),
    sql("a type", "CREATE TYPE rights AS ENUM ('a'); DROP TYPE rights"),
    sql("an index", "CREATE INDEX rights ON lefts (id); DROP INDEX rights"),
    sql("a dollar-quoted text", "SELECT $$delete from right.rights$$"),
    sql(
        "names of PL/pgSQL",
        "CREATE FUNCTION f(rights int) RETURNS int AS $$ DECLARE right record; BEGIN SELECT 1 INTO rights; "
        "IF right.id IS DISTINCT FROM rights THEN WITH rights AS (SELECT 1) SELECT * INTO right FROM rights; END IF; "
        "FOR right IN SELECT * FROM lefts LOOP PERFORM right.id; END LOOP; END $$ LANGUAGE plpgsql",
    ),
    edit("a key that is schema", "modules/left/router.py", 'X = {"schema": "right", "title": "x"}'),
    Case(
        "messages of both",
        {
            MODELS: _MESSAGES,
            "modules/right/models.py": _MESSAGES,
            REPOSITORY: 'X = text("SELECT * FROM outbox"), text("SELECT * FROM left.inbox"), "DELETE FROM inbox"',
            MIGRATION: 'def s() -> None:\n    op.create_table("outbox")\n    op.drop_index("ix", "outbox")\n',
        },
    ),
]
