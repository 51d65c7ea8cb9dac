"""Cases for own-tables and one-metadata."""

from kernel.ext.boundaries.violations import Case, edit

MODELS = "modules/left/models.py"
REPOSITORY = "modules/left/repository.py"
MIGRATION = "migrations/left/0001_first.py"
_LAST = '    op.drop_table("lefts")'


def sql(name: str, code: str) -> Case:
    """SQL in a repository."""
    return edit(name, REPOSITORY, f"X = text({code!r})")


def step(name: str, code: str) -> Case:
    """A step of a migration."""
    return edit(name, MIGRATION, (_LAST, f"{_LAST}\n    {code}"))


_KEY = "\n    id: Mapped[int] = mapped_column(primary_key=True)\n"


def entity(name: str, body: str, before: str = "") -> Case:
    """One more entity, with these lines in its class."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return edit(name, MODELS, f'{before}\n\nclass A(Base):\n    __tablename__ = "a"{_KEY}{lines}')


_RIGHT_ID = "right_id: Mapped[int] = mapped_column({})"

OWN_TABLES = [
    entity("a foreign key", _RIGHT_ID.format('ForeignKey("rights.id")')),
    entity("a foreign key with the schema", _RIGHT_ID.format('ForeignKey("right.rights.id")')),
    entity("a foreign key with a constant name", _RIGHT_ID.format("ForeignKey(TARGET)"), 'TARGET = "rights.id"'),
    entity(
        "a foreign key of several columns",
        'a: Mapped[int]\n__table_args__ = (ForeignKeyConstraint(["a"], ["rights.id"]),)',
    ),
    entity("under SQLAlchemy's full name", _RIGHT_ID.format('sa.ForeignKey("rights.id")'), "import sqlalchemy as sa"),
    entity("under another name", _RIGHT_ID.format('FK("rights.id")'), "from sqlalchemy import ForeignKey as FK"),
    entity(
        "a foreign key from a partial",
        _RIGHT_ID.format('to_right("rights.id")'),
        "from functools import partial\n\nto_right = partial(ForeignKey, use_alter=True)",
    ),
    entity(
        "a foreign key from a helper",
        _RIGHT_ID.format('to("rights")'),
        'def to(table: str) -> ForeignKey:\n    return ForeignKey(f"{table}.id")',
    ),
    edit(
        "foreign keys from a loop",
        MODELS,
        'for name in ("right", "left"):\n'
        '    Table(f"to_{name}", Base.metadata, Column("x", ForeignKey(f"{name}s.id"), primary_key=True))\n',
    ),
    entity("a relationship", 'right: Mapped["Right"] = relationship()'),
    entity("a relationship by its path", 'right: Mapped[Any] = relationship("modules.right.models.Right")'),
    entity("a relationship in a lambda", 'right: Mapped[Any] = relationship(lambda: "Right")'),
    entity("a relationship's secondary", 'lefts: Mapped[list["Left"]] = relationship(secondary="rights")'),
    edit("another's table", MODELS, 'X = Table("rights", MetaData())'),
    edit("another's table in its schema", MODELS, 'X = Table("anything", MetaData(), schema="right")'),
    entity("metadata of another's schema", "", 'Base.metadata.schema = "right"'),
    entity("table arguments", '__table_args__ = {"schema": "right"}'),
    entity("an enum in another's schema", 'c: Mapped[str] = mapped_column(Enum("a", name="c", schema="right"))'),
    entity("a sequence of another", 'n: Mapped[int] = mapped_column(Sequence("n", schema="right"))'),
    entity(
        "a default that reads another's table",
        'n: Mapped[int] = mapped_column(server_default=text("(SELECT max(id) FROM right.rights)"))',
    ),
    entity("a default of Python's side", 'n: Mapped[int] = mapped_column(default=text("(SELECT 1 FROM rights)"))'),
    entity("a column that is a query", 'n = column_property(text("(SELECT 1 FROM rights)"))'),
    edit(
        "a listener that runs when the tables are created",
        MODELS,
        'event.listen(Base.metadata, "after_create", DDL("GRANT SELECT ON right.rights TO x"))',
    ),
    edit("a table construct", REPOSITORY, 'from sqlalchemy import table\nX = table("rights")'),
    edit("separate metadata of another's schema", MODELS, 'X = MetaData(schema="right")'),
    edit("a translated schema", REPOSITORY, 'X = {"schema_translate_map": {None: "right"}}'),
    edit(
        "a translated schema, by keyword",
        REPOSITORY,
        'def f(c):\n    c.execution_options(schema_translate_map={None: "right"})\n',
    ),
    sql("SQL", "SELECT * FROM right.rights"),
    sql("SQL without the schema", "SELECT * FROM rights"),
    sql("small letters", "select id from rights where id = :id"),
    sql("capitals", "SELECT * FROM Rights"),
    sql("capitals, with the schema", "SELECT * FROM RIGHT.RIGHTS"),
    sql("capitals where only tokens are read", "CREATE TRIGGER t AFTER INSERT ON RIGHTS EXECUTE FUNCTION f()"),
    sql("in a schema that is a parameter", "SELECT * FROM $s.rights"),
    sql("rights on a schema", "GRANT USAGE ON SCHEMA right TO reader"),
    sql("a function of another's schema", "SELECT right.do_it(1)"),
    sql("vacuum and analyze", "VACUUM ANALYZE rights"),
    edit("with percent, by name", REPOSITORY, 'X = "SELECT * FROM %(t)s" % {"t": "rights"}'),
    entity("a join as a text", 'x: Mapped["Left"] = relationship(primaryjoin="Left.id == Right.id")'),
    sql("quoted names", 'SELECT * FROM "right"."rights"'),
    sql("a join", "SELECT * FROM lefts l JOIN rights r ON r.id = l.id"),
    sql("a list of tables", "SELECT * FROM lefts, rights"),
    sql("a subquery", "SELECT (SELECT max(id) FROM rights) FROM lefts"),
    sql("in a CTE", "WITH x AS (SELECT * FROM rights) SELECT * FROM x"),
    sql("a CTE of its name elsewhere", "WITH lefts AS (SELECT 1), x AS (SELECT * FROM right.rights) SELECT * FROM x"),
    sql("a union", "SELECT id FROM lefts UNION SELECT id FROM rights"),
    sql("insert from", "INSERT INTO lefts SELECT * FROM rights"),
    sql("insert into", "INSERT INTO rights (id) VALUES (1)"),
    sql("update from", "UPDATE lefts SET id = 1 FROM rights"),
    sql("update", "UPDATE rights SET id = 1"),
    sql("delete using", "DELETE FROM lefts USING rights"),
    sql("merge", "MERGE INTO lefts USING rights ON true WHEN MATCHED THEN DO NOTHING"),
    sql("truncate", "TRUNCATE lefts, rights"),
    sql("copy", "COPY rights FROM STDIN"),
    sql("lock", "LOCK TABLE rights"),
    sql("grant", "GRANT SELECT ON right.rights TO reader"),
    sql("explain", "EXPLAIN ANALYZE SELECT * FROM rights"),
    sql("a view", "CREATE VIEW v AS SELECT * FROM rights"),
    sql("a trigger", "CREATE TRIGGER t AFTER INSERT ON rights EXECUTE FUNCTION f()"),
    sql(
        "a function's body",
        "CREATE FUNCTION f() RETURNS int AS $$ BEGIN DELETE FROM right.rights; END $$ LANGUAGE plpgsql",
    ),
    sql("a block", "DO $$ begin perform 1 from rights; end $$"),
    sql("a sequence", "SELECT nextval('right.rights_id_seq')"),
    sql("a cast", "SELECT 'right.rights'::regclass"),
    sql("behind a comment", "/* harmless */ SELECT * -- really\nFROM rights"),
    sql("the search path", "SET search_path TO right"),
    sql("the search path by a function", "SELECT set_config('search_path', 'right', true)"),
    sql("another role", "SET LOCAL ROLE reader"),
    sql("a part of a statement", "EXISTS (SELECT 1 FROM rights)"),
    edit("a column as a text", REPOSITORY, 'X = literal_column("right.rights.id")'),
    edit("through the driver", REPOSITORY, 'async def f(c):\n    await c.exec_driver_sql("SELECT * FROM rights")\n'),
    edit("a constant", REPOSITORY, 'QUERY = "SELECT * FROM rights"'),
    edit("an f-string", REPOSITORY, 'S = "right"\nX = text(f"SELECT * FROM {S}.rights")'),
    edit(
        "an f-string with an unknown part",
        REPOSITORY,
        'def f(n):\n    return text(f"SELECT {n} FROM rights LIMIT {n}")\n',
    ),
    edit("a sum", REPOSITORY, 'X = text("SELECT * FROM " + "right" + ".rights")'),
    edit(
        "a text with +=",
        REPOSITORY,
        'def f(s):\n    q = "SELECT * "\n    q += "FROM right.rights"\n    return s.run(q)\n',
    ),
    edit("with percent", REPOSITORY, 'X = "SELECT * FROM %s.rights" % "right"'),
    edit("with format", REPOSITORY, 'X = "SELECT * FROM {}.rights".format("right")'),
    edit("with format, by name", REPOSITORY, 'X = "SELECT * FROM {t}".format(t="rights")'),
    edit("joined", REPOSITORY, 'X = " ".join(["SELECT *", "FROM", "rights"])'),
    edit("in literals side by side", REPOSITORY, 'X = ("SELECT * "\n     "FROM rights")'),
    edit("chosen", REPOSITORY, 'def f(a):\n    return text("SELECT 1" if a else "SELECT * FROM rights")\n'),
    edit("in a class", REPOSITORY, 'class Q:\n    ALL = "SELECT * FROM rights"\n\nX = text(Q.ALL)'),
    Case(
        "from another file",
        {
            REPOSITORY: "from modules.left.rows import TABLE\nX = text(f'SELECT * FROM {TABLE}')",
            "modules/left/rows.py": 'TABLE = "right.rights"',
        },
    ),
    edit("in a router", "modules/left/router.py", 'QUERY = "SELECT * FROM right.rights"'),
    step("a migration's SQL", 'op.execute("ALTER TABLE right.rights ADD COLUMN x int")'),
    step("a migration's foreign key", 'op.create_foreign_key(None, "lefts", "rights", ["r"], ["id"])'),
    step("a foreign key to a schema", 'op.create_foreign_key(None, "a", "b", ["r"], ["id"], referent_schema="right")'),
    step("a migration of another's table", 'op.add_column("rights", sa.Column("x", sa.Integer))'),
    step("a batch on another's table", 'op.batch_alter_table("rights")'),
    step("another's index", 'op.create_index("ix", "rights", ["id"])'),
    step("another's table dropped", 'op.drop_table("rights")'),
    step("a table in another's schema", 'op.create_table("x", sa.Column("id", sa.Integer), schema="right")'),
    step("a column's foreign key", 'op.add_column("lefts", sa.Column("r", sa.ForeignKey("rights.id")))'),
    edit("from an unknown schema", REPOSITORY, 'def f(s):\n    return text(f"SELECT * FROM {s}.rights")\n'),
    edit("a table as a text", REPOSITORY, 'X = select(Left).select_from(text("rights"))'),
    edit("a table with its schema as a text", REPOSITORY, 'X = select(Left).select_from(text("right.rights"))'),
    edit(
        "a function of SQLAlchemy", REPOSITORY, 'from sqlalchemy import func\nX = func.nextval("right.rights_id_seq")'
    ),
    edit("a table of the metadata", REPOSITORY, 'X = Left.metadata.tables["right.rights"]'),
    edit("a created schema", REPOSITORY, 'from sqlalchemy.schema import CreateSchema\nX = CreateSchema("right")'),
    entity("options in a constant", "__table_args__ = O", 'O = {"schema": "right"}'),
    edit(
        "in an attribute",
        REPOSITORY,
        'class Q:\n    T = "rights"\n    def f(self):\n        self.r(f"SELECT 1 FROM {self.T}")\n',
    ),
    edit("in a default", REPOSITORY, 'def f(t="rights"):\n    return text(f"SELECT * FROM {t}")\n'),
    edit("joined from a constant", REPOSITORY, 'P = ["SELECT *", "FROM", "rights"]\nX = " ".join(P)'),
    sql("in PL/pgSQL, with columns", "DO $$ begin insert into rights (id) values (1); end $$"),
    sql(
        "in PL/pgSQL, where a variable has its name",
        "CREATE FUNCTION f() RETURNS int AS $$ DECLARE right lefts; "
        "BEGIN DELETE FROM right.rights; END $$ LANGUAGE plpgsql",
    ),
    edit("small letters, by any call", REPOSITORY, 'def f(run):\n    run("select id from rights where id = 1")\n'),
    edit("by a driver", REPOSITORY, 'async def f(c):\n    await c.execute("SET ROLE reader")\n'),
]


ONE_METADATA = [
    edit(
        "another's base",
        MODELS,
        'from modules.right.models import Base as Theirs\n\nclass A(Theirs):\n    __tablename__ = "a"' + _KEY,
        "contract-only",
    ),
    Case(
        "a base outside the modules",
        {
            MODELS: 'from shared import Shared\n\nclass A(Shared):\n    __tablename__ = "a"' + _KEY,
            "shared.py": "from sqlalchemy.orm import DeclarativeBase as D\n\nclass Shared(D): ...\n",
        },
    ),
    Case(
        "a base made by a function",
        {
            MODELS: 'from shared import Shared\n\nclass A(Shared):\n    __tablename__ = "a"' + _KEY,
            "shared.py": "from sqlalchemy.orm import declarative_base\n\nShared = declarative_base()\n",
        },
    ),
    edit("plain metadata", MODELS, ("metadata = new_metadata()", "metadata = MetaData()")),
    edit("no metadata", MODELS, ("    metadata = new_metadata()\n", "")),
    edit("two bases", MODELS, "class Second(DeclarativeBase):\n    pass\n"),
    Case(
        "metadata outside the modules",
        {
            MODELS: ("metadata = new_metadata()", "import shared\n    metadata = shared.shared"),
            "shared.py": "from sqlalchemy import MetaData\n\nshared = MetaData()\n",
        },
    ),
    edit(
        "a base made by a function here",
        MODELS,
        "from sqlalchemy.orm import declarative_base\n\nclass A(declarative_base()):\n    __tablename__ = 'a'" + _KEY,
    ),
    edit(
        "a registry",
        MODELS,
        "from sqlalchemy.orm import registry\n\n@registry().mapped\nclass A:\n    __tablename__ = 'a'" + _KEY,
    ),
    edit(
        "a class that is mapped by hand",
        MODELS,
        "from sqlalchemy.orm import registry\n\nclass A: ...\n\n"
        "registry().map_imperatively(A, Table('a', Base.metadata, Column('id', Enum('a'), primary_key=True)))",
    ),
    edit(
        "a base in a repository",
        REPOSITORY,
        "from sqlalchemy.orm import DeclarativeBase\n\nclass B(DeclarativeBase): ...\n",
    ),
    edit("migrations of no module", "migrations/gone/0001_first.py", '"""Once."""'),
    edit("migrations beside the modules", "migrations/0001_first.py", '"""Whose?"""'),
]
VALID_ONE_METADATA = [
    edit(
        "a mixin of the kernel",
        MODELS,
        'from kernel.database import Timestamps as T\n\nclass A(T, Base):\n    __tablename__ = "a"' + _KEY,
    ),
    edit("an entity on another of one's own", MODELS, "class Special(Left):\n    pass\n"),
    edit(
        "an abstract base between",
        MODELS,
        'class Between(Base):\n    __abstract__ = True\n\nclass A(Between):\n    __tablename__ = "a"' + _KEY,
    ),
    edit("a class called Base elsewhere", "modules/left/service.py", "class Base:\n    pass\n"),
    edit("a mixin with columns", MODELS, "class Mixin:\n    x: Mapped[int] = mapped_column()\n"),
]
