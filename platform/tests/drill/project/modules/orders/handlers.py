"""The messages that orders handles."""

from typing import Annotated

from kernel import with_session
from kernel.ext.messaging import subscribe
from modules.orders.contract import OrderPlaced
from modules.orders.repository import LetterRepository


@subscribe(OrderPlaced)
async def confirm(message: OrderPlaced, letters: Annotated[LetterRepository, with_session(LetterRepository)]) -> None:
    """Write the letter that confirms an order."""
    await letters.create(number=message.number)
