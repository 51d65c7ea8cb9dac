"""The queries of payments."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository
from modules.payments.models import Payment


class PaymentRepository(BaseRepository[Payment, int]):
    """The table of payments."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Payment, session)
