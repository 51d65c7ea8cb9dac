import asyncio
import os
import signal
from typing import Annotated

from kernel import from_module, with_session
from kernel.database import BaseRepository
from kernel.ext.messaging import subscribe
from modules.mail.models import Letter
from modules.mail.settings import MailSettings
from modules.shop.contract import OrderPlaced


class Letters(BaseRepository[Letter, int]):
    def __init__(self, session):
        super().__init__(Letter, session)


@subscribe(OrderPlaced)
async def write_letter(
    message: OrderPlaced,
    letters: Annotated[Letters, with_session(Letters)],
    settings: Annotated[MailSettings, from_module(MailSettings)],
) -> None:
    await letters.create(number=message.number, customer=message.customer)
    if str(message.number) in settings.fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.delay_seconds:
        await asyncio.sleep(settings.delay_seconds)
    if str(message.number) in settings.refused:
        raise ValueError("no such address")
