"""Find the tables that SQL reads or writes, and no other use of their names."""

import pytest

from kernel.ext.boundaries.sql import Named, forbidden, is_statement, tables

RIGHT = Named("right", "rights")
BARE = Named(None, "rights")


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT * FROM right.rights", RIGHT),
        ('SELECT * FROM "right"."rights"', RIGHT),
        ("select 1 from lefts l join rights r on r.id = l.id", BARE),
        ("SELECT * FROM lefts, rights", BARE),
        ("SELECT (SELECT max(id) FROM rights)", BARE),
        ("WITH x AS (SELECT * FROM rights) SELECT * FROM x", BARE),
        ("SELECT 1 UNION SELECT id FROM rights", BARE),
        ("INSERT INTO lefts SELECT * FROM rights", BARE),
        ("INSERT INTO rights VALUES (:a)", BARE),
        ("UPDATE lefts SET a = 1 FROM rights", BARE),
        ("DELETE FROM lefts USING rights", BARE),
        ("MERGE INTO lefts USING rights ON true WHEN MATCHED THEN DO NOTHING", BARE),
        ("TRUNCATE lefts, rights", BARE),
        ("LOCK TABLE rights", BARE),
        ("COPY rights FROM STDIN", BARE),
        ("VACUUM rights", BARE),
        ("EXPLAIN SELECT * FROM rights", BARE),
        ("GRANT SELECT ON right.rights TO reader", RIGHT),
        ("CREATE VIEW v AS SELECT * FROM rights", BARE),
        ("CREATE INDEX i ON rights (a)", BARE),
        ("CREATE TABLE lefts (id int REFERENCES rights (id))", BARE),
        ("CREATE TRIGGER t AFTER INSERT ON rights EXECUTE FUNCTION f()", BARE),
        ("CREATE FUNCTION f() RETURNS int AS $$ BEGIN DELETE FROM right.rights; END $$ LANGUAGE plpgsql", RIGHT),
        ("DO $$ begin perform 1 from rights; end $$", BARE),
        ("ALTER TABLE rights ADD COLUMN x int", BARE),
        ("REFRESH MATERIALIZED VIEW right.rights", RIGHT),
        ("SELECT 'right.rights'::regclass", RIGHT),
        ("SELECT nextval('right.rights')", RIGHT),
        ("EXISTS (SELECT 1 FROM rights)", BARE),
        ("right.rights.id = 1", RIGHT),
        ("SET search_path TO right", Named("right", None)),
        ("SELECT set_config('search_path', 'right', true)", Named("right", None)),
        ("SELECT set_config('search_path', 'lefts, right', true)", Named("right", None)),
        ("CREATE SCHEMA right", Named("right", None)),
        ("CREATE TYPE right.rights AS ENUM ('a')", RIGHT),
        ("DROP INDEX right.rights", RIGHT),
        ("DO $$ begin execute 'delete from right.rights'; end $$", RIGHT),
        ("DO $$ begin execute format('delete from rights where a = %L', 1); end $$", BARE),
        ("DO $$ begin insert into rights (id) values (1); end $$", BARE),
        ("DO $$ declare rights int; begin delete from rights; end $$", BARE),
        ("DO $$ declare right lefts; begin delete from right.rights; end $$", RIGHT),
    ],
)
def test_a_table_is_named(sql: str, named: Named) -> None:
    assert named in tables(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH rights AS (SELECT 1) SELECT * FROM rights",
        "SELECT 1 -- FROM right.rights",
        "SELECT 1 /* FROM rights */ FROM lefts",
        "SELECT 'FROM right.rights'",
        "SELECT rights FROM lefts",
        "SELECT rights.id FROM lefts AS rights",
        "SELECT * FROM lefts rights",
        "INSERT INTO lefts (t) VALUES ('SELECT * FROM rights')",
        "to_tsvector('simple', title || ' ' || rights)",
        "SELECT :rights FROM lefts",
        "SELECT to_char(now(), 'right.rights')",
        "SELECT pg_notify('rights', 'right')",
        "SELECT set_config('right.rights', 'rights', true)",
        "SELECT * FROM lefts rights FOR NO KEY UPDATE OF rights",
        "CREATE TYPE rights AS ENUM ('a')",
        "CREATE TABLE rights (id int)",
        "CREATE TABLE lefts (t text DEFAULT 'copy from rights x')",
        "DROP INDEX rights",
        "COMMENT ON TYPE rights IS 'x'",
        "SELECT $$delete from right.rights$$",
        "DO $$ declare rights int; begin select 1 into rights; end $$",
        "DO $$ declare right lefts; begin perform right.id; end $$",
        "DO $$ begin for right in select 1 loop perform right.id; end loop; end $$",
        "DO $$ begin with rights as (select 1) select * from rights; end $$",
        "DO $$ begin if 1 is distinct from rights then return; end if; end $$",
        "DO $$ begin update lefts as right set a = right.b; end $$",
        "DO $$ begin perform pg_notify('rights', 'right'); end $$",
        "CREATE FUNCTION f(rights int, right lefts) RETURNS int AS $$ begin return right.id; end $$ LANGUAGE plpgsql",
    ],
)
def test_another_use_of_the_name_is_not_a_table(sql: str) -> None:
    assert tables(sql).isdisjoint({RIGHT, BARE, Named("right", None)})


@pytest.mark.parametrize(
    "prose",
    [
        "Select rights from the list",
        "select rights from the list",
        "update rights as you see fit, please",
        "update rights",
        "delete rights",
        "copy rights to disk",
        "lock rights",
        "truncate rights",
        "DELETE rights",
        "with rights as heroes",
    ],
)
def test_prose_names_no_table(prose: str) -> None:
    assert not is_statement(prose) or BARE not in tables(prose, is_sql=False)


@pytest.mark.parametrize(
    "sql",
    [
        "select id from rights",
        "SELECT right.f(1)",
        "/* why */ UPDATE rights SET a = 1",
        "TRUNCATE rights",
        "-- x\ndelete from rights",
    ],
)
def test_a_statement_is_distinguished_from_prose(sql: str) -> None:
    assert is_statement(sql)


def test_sql_that_breaks_the_parser_is_read_by_its_tokens() -> None:
    assert RIGHT in tables("GRANT 'x' ON right.rights")


def test_many_comments_take_no_more_time() -> None:
    assert not is_statement("/**/" * 60 + "!")


@pytest.mark.parametrize(
    "sql",
    [
        "SET ROLE right",
        "SET LOCAL ROLE right",
        "reset role",
        "SET SESSION AUTHORIZATION x",
        "SELECT set_config('role', 'right', true)",
    ],
)
def test_a_change_of_role_is_found(sql: str) -> None:
    assert list(forbidden(sql, "left"))


def test_a_column_named_role_is_not_a_role() -> None:
    assert not list(forbidden("UPDATE lefts SET a = 1 WHERE role = 'x'", "left"))


@pytest.mark.parametrize("sql", ["UPDATE lefts SET role = :role", "UPDATE lefts SET a = 1; UPDATE lefts SET role = 2"])
def test_a_column_named_role_may_be_set(sql: str) -> None:
    assert not list(forbidden(sql, "left"))
