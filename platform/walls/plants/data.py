"""Plants for own-tables and one-metadata."""

from walls.plants import Plant, plant

_MODELS = "modules/left/models.py"
_REPOSITORY = "modules/left/repository.py"
_MIGRATION = "migrations/left/0001_first.py"


def _sql(name: str, sql: str) -> Plant:
    return plant(name, _REPOSITORY, f"X = text({sql!r})")


def _step(name: str, code: str) -> Plant:
    return plant(name, _MIGRATION, f"def step() -> None:\n    {code}\n")


OWN_TABLES = [
    plant("a foreign key", _MODELS, 'X = mapped_column(ForeignKey("rights.id"))'),
    plant("a foreign key with the schema", _MODELS, 'X = mapped_column(ForeignKey("right.rights.id"))'),
    plant("a foreign key whose name is a constant", _MODELS, 'TARGET = "rights.id"\nX = ForeignKey(TARGET)'),
    plant("a foreign key of several columns", _MODELS, 'X = ForeignKeyConstraint(["a"], ["rights.id"])'),
    plant("under SQLAlchemy's full name", _MODELS, 'import sqlalchemy as sa\nX = sa.ForeignKey("rights.id")'),
    plant("a relationship", _MODELS, 'X = relationship("Right")'),
    plant("a relationship by its path", _MODELS, 'X = relationship("modules.right.models.Right")'),
    plant("a relationship in a lambda", _MODELS, 'X = relationship(lambda: "Right")'),
    plant(
        "a relationship by its annotation",
        _MODELS,
        'class A(Base):\n    __abstract__ = True\n    r: Mapped["Right"] = relationship()\n',
    ),
    plant("a relationship's secondary", _MODELS, 'X = relationship("Left", secondary="rights")'),
    plant("another's table", _MODELS, 'X = Table("rights", MetaData())'),
    plant("another's table in its schema", _MODELS, 'X = Table("anything", MetaData(), schema="right")'),
    plant("a light table", _REPOSITORY, 'from sqlalchemy import table\nX = table("rights")'),
    plant("metadata of another's schema", _MODELS, 'X = MetaData(schema="right")'),
    plant(
        "table arguments",
        _MODELS,
        'class A(Base):\n    __abstract__ = True\n    __table_args__ = {"schema": "right"}\n',
    ),
    plant("a translated schema", _REPOSITORY, 'X = {"schema_translate_map": {None: "right"}}'),
    plant(
        "a translated schema, by keyword",
        _REPOSITORY,
        'def f(c):\n    c.execution_options(schema_translate_map={None: "right"})\n',
    ),
    _sql("SQL", "SELECT * FROM right.rights"),
    _sql("SQL without the schema", "SELECT * FROM rights"),
    _sql("small letters", "select id from rights where id = :id"),
    _sql("capitals", "SELECT * FROM Rights"),
    _sql("capitals, with the schema", "SELECT * FROM RIGHT.RIGHTS"),
    _sql("capitals where only tokens are read", "CREATE TRIGGER t AFTER INSERT ON RIGHTS EXECUTE FUNCTION f()"),
    _sql("in a schema that is a parameter", "SELECT * FROM $s.rights"),
    _sql("rights on a schema", "GRANT USAGE ON SCHEMA right TO somebody"),
    _sql("a function of another's schema", "SELECT right.do_it(1)"),
    _sql("vacuum and analyze", "VACUUM ANALYZE rights"),
    plant("with percent, by name", _REPOSITORY, 'X = "SELECT * FROM %(t)s" % {"t": "rights"}'),
    plant("a join in words", _MODELS, 'X = relationship("Left", primaryjoin="Left.id == Right.id")'),
    _sql("quoted names", 'SELECT * FROM "right"."rights"'),
    _sql("a join", "SELECT * FROM lefts l JOIN rights r ON r.id = l.id"),
    _sql("a list of tables", "SELECT * FROM lefts, rights"),
    _sql("a subquery", "SELECT (SELECT max(id) FROM rights) FROM lefts"),
    _sql("in a CTE", "WITH x AS (SELECT * FROM rights) SELECT * FROM x"),
    _sql("a CTE of its name elsewhere", "WITH lefts AS (SELECT 1), x AS (SELECT * FROM right.rights) SELECT * FROM x"),
    _sql("a union", "SELECT id FROM lefts UNION SELECT id FROM rights"),
    _sql("insert from", "INSERT INTO lefts SELECT * FROM rights"),
    _sql("insert into", "INSERT INTO rights (id) VALUES (1)"),
    _sql("update from", "UPDATE lefts SET id = 1 FROM rights"),
    _sql("update", "UPDATE rights SET id = 1"),
    _sql("delete using", "DELETE FROM lefts USING rights"),
    _sql("merge", "MERGE INTO lefts USING rights ON true WHEN MATCHED THEN DO NOTHING"),
    _sql("truncate", "TRUNCATE lefts, rights"),
    _sql("copy", "COPY rights FROM STDIN"),
    _sql("lock", "LOCK TABLE rights"),
    _sql("grant", "GRANT SELECT ON right.rights TO somebody"),
    _sql("explain", "EXPLAIN ANALYZE SELECT * FROM rights"),
    _sql("a view", "CREATE VIEW v AS SELECT * FROM rights"),
    _sql("a trigger", "CREATE TRIGGER t AFTER INSERT ON rights EXECUTE FUNCTION f()"),
    _sql(
        "a function's body",
        "CREATE FUNCTION f() RETURNS int AS $$ BEGIN DELETE FROM right.rights; END $$ LANGUAGE plpgsql",
    ),
    _sql("a block", "DO $$ begin perform 1 from rights; end $$"),
    _sql("a sequence", "SELECT nextval('right.rights_id_seq')"),
    _sql("a cast", "SELECT 'right.rights'::regclass"),
    _sql("behind a comment", "/* harmless */ SELECT * -- really\nFROM rights"),
    _sql("the search path", "SET search_path TO right"),
    _sql("the search path by a function", "SELECT set_config('search_path', 'right', true)"),
    _sql("another role", "SET LOCAL ROLE somebody"),
    _sql("a part of a statement", "EXISTS (SELECT 1 FROM rights)"),
    plant("a column in words", _REPOSITORY, 'X = literal_column("right.rights.id")'),
    plant("through the driver", _REPOSITORY, 'async def f(c):\n    await c.exec_driver_sql("SELECT * FROM rights")\n'),
    plant("a constant", _REPOSITORY, 'QUERY = "SELECT * FROM rights"'),
    plant("an f-string", _REPOSITORY, 'S = "right"\nX = text(f"SELECT * FROM {S}.rights")'),
    plant(
        "an f-string with what nobody knows",
        _REPOSITORY,
        'def f(n):\n    return text(f"SELECT {n} FROM rights LIMIT {n}")\n',
    ),
    plant("added up", _REPOSITORY, 'X = text("SELECT * FROM " + "right" + ".rights")'),
    plant(
        "added to", _REPOSITORY, 'def f(s):\n    q = "SELECT * "\n    q += "FROM right.rights"\n    return s.run(q)\n'
    ),
    plant("with percent", _REPOSITORY, 'X = "SELECT * FROM %s.rights" % "right"'),
    plant("with format", _REPOSITORY, 'X = "SELECT * FROM {}.rights".format("right")'),
    plant("with format, by name", _REPOSITORY, 'X = "SELECT * FROM {t}".format(t="rights")'),
    plant("joined", _REPOSITORY, 'X = " ".join(["SELECT *", "FROM", "rights"])'),
    plant("in literals side by side", _REPOSITORY, 'X = ("SELECT * "\n     "FROM rights")'),
    plant("chosen", _REPOSITORY, 'def f(a):\n    return text("SELECT 1" if a else "SELECT * FROM rights")\n'),
    plant("in a class", _REPOSITORY, 'class Q:\n    ALL = "SELECT * FROM rights"\n\nX = text(Q.ALL)'),
    Plant(
        "from another file",
        {
            _REPOSITORY: "from modules.left.rows import TABLE\nX = text(f'SELECT * FROM {TABLE}')",
            "modules/left/rows.py": 'TABLE = "right.rights"',
        },
    ),
    plant("in a router", "modules/left/router.py", 'QUERY = "SELECT * FROM right.rights"'),
    _step("a migration's SQL", 'op.execute("ALTER TABLE right.rights ADD COLUMN x int")'),
    _step("a migration's foreign key", 'op.create_foreign_key(None, "lefts", "rights", ["r"], ["id"])'),
    _step("a foreign key to a schema", 'op.create_foreign_key(None, "a", "b", ["r"], ["id"], referent_schema="right")'),
    _step("a migration of another's table", 'op.add_column("rights", sa.Column("x", sa.Integer))'),
    _step("a batch on another's table", 'op.batch_alter_table("rights")'),
    _step("another's index", 'op.create_index("ix", "rights", ["id"])'),
    _step("another's table dropped", 'op.drop_table("rights")'),
    _step("a table in another's schema", 'op.create_table("x", sa.Column("id", sa.Integer), schema="right")'),
    _step("a column's foreign key", 'op.add_column("lefts", sa.Column("r", sa.ForeignKey("rights.id")))'),
]
INNOCENT_OWN_TABLES = [
    plant("one's own foreign key", _MODELS, 'X = mapped_column(ForeignKey("lefts.id"))'),
    plant("one's own foreign key, with the schema", _MODELS, 'X = mapped_column(ForeignKey("left.lefts.id"))'),
    plant("one's own relationship", _MODELS, 'X = relationship("Left")'),
    plant(
        "a table of the same name",
        _MODELS,
        'class Mine(Base):\n    __tablename__ = "rights"\n    id: Mapped[int]\n',
    ),
    Plant(
        "SQL on one's own table of the same name",
        {
            _REPOSITORY: 'X = text("SELECT * FROM rights")',
            _MODELS: 'class Mine(Base):\n    __tablename__ = "rights"\n    id: Mapped[int]\n',
        },
    ),
    plant("an association table", _MODELS, 'X = Table("rights", Base.metadata)'),
    plant(
        "an entity of the same name",
        _MODELS,
        'class Right(Base):\n    __tablename__ = "own"\n\nX = relationship("Right")',
    ),
    _sql("one's own table", "SELECT * FROM lefts"),
    _sql("one's own schema", "SELECT * FROM left.lefts"),
    _sql("a quoted name with capitals is another table", 'SELECT * FROM "Rights"'),
    _sql("a CTE of that name", "WITH rights AS (SELECT 1 AS id) SELECT * FROM rights"),
    _sql("an alias of that name", "SELECT rights.id FROM lefts AS rights"),
    _sql("a column of that name", "SELECT rights FROM lefts"),
    _sql("a column under that name", "SELECT id AS rights FROM lefts"),
    _sql("a comment in SQL", "SELECT 1 -- FROM right.rights"),
    _sql("a text in SQL", "SELECT 'FROM right.rights'"),
    _sql("a statement kept as text", "INSERT INTO lefts (t) VALUES ('SELECT * FROM rights')"),
    _sql("a parameter of that name", "SELECT * FROM lefts WHERE id = :rights"),
    _sql("a function on columns", "to_tsvector('simple', title || ' ' || rights)"),
    _sql("a system table", "SELECT * FROM pg_catalog.pg_class"),
    plant("a comment", _REPOSITORY, "# SELECT * FROM right.rights"),
    plant("a docstring", _REPOSITORY, 'def f():\n    """SELECT * FROM right.rights"""\n'),
    plant("prose", _REPOSITORY, 'X = "Select rights from the list, or update rights as you like."'),
    plant("a message", _REPOSITORY, 'X = "rights of left were deleted from rights"'),
    plant("a path", "modules/left/router.py", 'X = "/api/v1/right/rights"'),
    plant("a tag", "modules/left/router.py", 'TAGS = ["right", "rights"]'),
    plant("a local variable", _REPOSITORY, "def f(rights):\n    right = rights[0]\n    return right\n"),
    plant("another's schema as a plain word", _REPOSITORY, 'X = {"side": "right"}'),
    plant("a selected column's label", _REPOSITORY, 'X = select(Left.id.label("rights"))'),
    _step("one's own column", 'op.add_column("lefts", sa.Column("rights", sa.Integer))'),
    _step("an index named as another's table", 'op.create_index("rights", "lefts", ["id"])'),
    plant("a log's schema", _REPOSITORY, 'def f(log):\n    log.info("seen", schema="right")\n'),
    _step("a constraint of one's own", 'op.create_unique_constraint("uq_lefts", "lefts", ["id"])'),
]

ONE_METADATA = [
    plant(
        "another's base",
        _MODELS,
        'from modules.right.models import Base as Theirs\n\nclass A(Theirs):\n    __tablename__ = "a"\n',
        "contract-only",
    ),
    Plant(
        "a base in the kernel",
        {
            _MODELS: 'from kernel.fields import Shared\n\nclass A(Shared):\n    __tablename__ = "a"\n',
            "platform/kernel/fields.py": "from sqlalchemy.orm import DeclarativeBase as D\n\nclass Shared(D): ...\n",
        },
    ),
    Plant(
        "a base made by a function",
        {
            _MODELS: 'from kernel.fields import Shared\n\nclass A(Shared):\n    __tablename__ = "a"\n',
            "platform/kernel/fields.py": "from sqlalchemy.orm import declarative_base\n\nShared = declarative_base()\n",
        },
    ),
    plant("two bases", _MODELS, "class Second(DeclarativeBase):\n    pass\n"),
    Plant(
        "metadata of the kernel",
        {
            _MODELS: ("metadata = new_metadata()", "metadata = kernel.fields.shared"),
            "platform/kernel/fields.py": "from sqlalchemy import MetaData\n\nshared = MetaData()\n",
        },
    ),
    plant(
        "a table of the kernel",
        "platform/kernel/fields.py",
        'from sqlalchemy.orm import DeclarativeBase as D\n\nclass B(D): ...\n\nclass T(B):\n    __tablename__ = "t"\n',
    ),
    plant(
        "a base made by a function here",
        _MODELS,
        "from sqlalchemy.orm import declarative_base\n\nB = declarative_base()",
    ),
    plant("a registry", _MODELS, "from sqlalchemy.orm import registry\n\nB = registry().generate_base()"),
    plant(
        "a base in a repository",
        _REPOSITORY,
        "from sqlalchemy.orm import DeclarativeBase\n\nclass B(DeclarativeBase): ...\n",
    ),
    plant("migrations of no module", "migrations/gone/0001_first.py", '"""Once."""'),
    plant("migrations beside the modules", "migrations/0001_first.py", '"""Whose?"""'),
]
INNOCENT_ONE_METADATA = [
    plant(
        "a mixin of the kernel",
        _MODELS,
        'from kernel.database import Timestamps as T\n\nclass A(T, Base):\n    __tablename__ = "a"\n',
    ),
    plant("an entity on another of one's own", _MODELS, "class Special(Left):\n    pass\n"),
    plant(
        "an abstract base between",
        _MODELS,
        'class Between(Base):\n    __abstract__ = True\n\nclass A(Between):\n    __tablename__ = "a"\n',
    ),
    plant("a class called Base elsewhere", "modules/left/service.py", "class Base:\n    pass\n"),
    plant("a mixin with columns", _MODELS, "class Mixin:\n    x: Mapped[int] = mapped_column()\n"),
]
