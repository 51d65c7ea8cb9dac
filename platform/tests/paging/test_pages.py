"""Pages of a list on both databases: by offset with a total, by cursor without one."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.ext.paging import InvalidCursor, PagedRepository, PageRequest, Sort
from tests.core.test_repository import User, UserName, database, session, statements  # noqa: F401  # fixtures

UserRepository = PagedRepository[User, int]


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:  # noqa: F811  # the fixture
    return UserRepository(User, session)


async def test_a_page_is_one_statement(users: UserRepository, statements: list[str]) -> None:  # noqa: F811  # the fixture
    await users.create(email="a")
    before = len(statements)
    await users.page(PageRequest(), UserName)
    await users.page(PageRequest(cursor=""), UserName)
    assert len(statements) == before + 2


async def test_ties_are_broken_by_key_in_the_direction_of_the_order(users: UserRepository) -> None:
    await users.create_many([{"email": str(number), "name": "same"} for number in range(4)])
    page = await users.page(PageRequest(), UserName, order=Sort(User.name, descending=True))
    assert [user.id for user in page.items] == [4, 3, 2, 1]


async def test_an_order_by_a_column_that_may_be_null_is_refused() -> None:
    with pytest.raises(TypeError, match="nickname"):
        Sort(User.nickname)


async def test_pages_by_offset_have_a_total(users: UserRepository) -> None:
    await users.create_many([{"email": str(number)} for number in range(5)])
    page = await users.page(PageRequest(limit=2, offset=4), UserName)
    assert ([user.id for user in page.items], page.total, page.next_cursor) == ([5], 5, None)
    beyond = await users.page(PageRequest(limit=2, offset=10), UserName)
    assert (beyond.items, beyond.total) == ([], 5)
    none = await users.page(PageRequest(), UserName, User.name == "nobody")
    assert (none.items, none.total) == ([], 0)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("column", [User.name, User.created_at])
async def test_cursors_return_every_row_once_in_order(
    users: UserRepository, *, column: object, descending: bool
) -> None:
    await users.create_many([{"email": str(number), "name": f"n{number % 3}"} for number in range(11)])
    order = Sort(column, descending=descending)  # type: ignore[arg-type]  # pytest hands the column over as an object
    expected = [user.id for user in await users.get_all(100, 0, *order.then(User.id).order_by())]
    walked: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await users.page(PageRequest(limit=3, cursor=cursor), UserName, order=order)
        assert page.total is None
        walked += [user.id for user in page.items]
        cursor = page.next_cursor
    assert walked == expected


@pytest.mark.parametrize("cursor", ["!", "AAAA", "W10", "WyJpZCIsICJ4Il0", "é", "WzEsMl0"])
async def test_an_invalid_cursor_is_refused(users: UserRepository, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await users.page(PageRequest(cursor=cursor), UserName)


async def test_a_cursor_of_another_order_is_refused(users: UserRepository) -> None:
    await users.create_many([{"email": str(number)} for number in range(3)])
    page = await users.page(PageRequest(limit=1, cursor=""), UserName)
    with pytest.raises(InvalidCursor):
        await users.page(PageRequest(cursor=page.next_cursor), UserName, order=Sort(User.name))
