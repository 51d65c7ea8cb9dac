"""The database queries of events."""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, bindparam, or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import Principal
from kernel.database import utc_now
from kernel.ext.paging import Page, PagedRepository, Sort
from kernel.ext.search import has_words
from modules.events.models import SEARCHED_TEXT, Event
from modules.events.schemas import EventIn, EventOut, EventQuery, EventSort

_OWN = Event.owner == bindparam("caller", type_=Event.owner.type)
_READABLE = or_(Event.is_draft.is_(False), _OWN)


class EventRepository(PagedRepository[Event, int]):
    """The events that a caller can read and change: only the owner reads a draft or changes an event.

    Callers with the scope `events:admin` can read and change every event.
    """

    def __init__(self, session: AsyncSession, caller: Principal) -> None:
        super().__init__(Event, session)
        self._caller = caller
        if not caller.may("events:admin"):
            self.restrict(_READABLE, _OWN, caller=caller.key)

    @classmethod
    def of_all(cls, session: AsyncSession) -> "EventRepository":
        """Return a repository without restrictions, for work without a caller, such as message handlers."""
        return cls(session, Principal("events", frozenset({"events:admin"})))

    async def find(self, query: EventQuery) -> Page[EventOut]:
        """Return the page of events that match the query. Raises InvalidCursor."""
        return await self.page(query, EventOut, *self._filters(query), order=_order(query.sort))

    async def add(self, event: EventIn) -> EventOut:
        """Create an event that belongs to the caller."""
        return await self.create(into=EventOut, owner=self._caller.key, **event.model_dump())

    async def forget_image(self, image_id: int) -> None:
        """Remove the image from every event that has it, and increment their versions."""
        forgotten = update(Event).where(Event.image_id == image_id)
        await self.session.execute(
            forgotten.values(image_id=None, version=Event.version + 1),
            execution_options={"synchronize_session": False},
        )

    def _filters(self, query: EventQuery) -> Iterator[ColumnElement[bool]]:
        if query.q and (words := has_words(SEARCHED_TEXT, query.q)) is not None:
            yield words
        if query.location is not None:
            yield Event.location == query.location
        if query.date_from is not None:
            yield Event.date >= query.date_from
        if query.date_to is not None:
            yield Event.date <= query.date_to
        if query.upcoming:
            yield Event.date >= utc_now().date()


def _order(sort: EventSort) -> Sort:
    match sort:
        case EventSort.DATE:
            return Sort(Event.date, Event.time)
        case EventSort.LATEST:
            return Sort(Event.date, Event.time, descending=True)
        case EventSort.TITLE:
            return Sort(Event.title)
        case EventSort.TITLE_DESCENDING:
            return Sort(Event.title, descending=True)
        case EventSort.OLDEST:
            return Sort(Event.created_at)
        case EventSort.NEWEST:
            return Sort(Event.created_at, descending=True)
