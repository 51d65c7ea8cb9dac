"""The database queries of health."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.ext.paging import Page, PagedRepository, Sort
from modules.health.models import Incident
from modules.health.schemas import IncidentOut, IncidentQuery


class IncidentRepository(PagedRepository[Incident, int]):
    """The table of incidents."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Incident, session)

    async def find(self, query: IncidentQuery) -> Page[IncidentOut]:
        """Return the page of incidents that match the query, newest first. Raises InvalidCursor."""
        where = [] if query.component is None else [Incident.component == query.component]
        return await self.page(query, IncidentOut, *where, order=Sort(Incident.started_at, descending=True))
