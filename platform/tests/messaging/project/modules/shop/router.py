from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel

from kernel import Unprocessable, with_session
from kernel.database import BaseRepository
from kernel.ext.messaging import publish
from modules.shop.contract import OrderPlaced
from modules.shop.models import Order

router = APIRouter()


class OrderIn(BaseModel):
    number: int
    customer: str | None = None
    fails: bool = False


class Orders(BaseRepository[Order, int]):
    def __init__(self, session):
        super().__init__(Order, session)


@router.post("", status_code=201)
async def place(order: OrderIn, orders: Annotated[Orders, with_session(Orders)]) -> int:
    await orders.create(number=order.number)
    await publish(OrderPlaced(number=order.number, customer=order.customer))
    if order.fails:
        raise Unprocessable("number", "no")
    return order.number


@router.get("")
async def read(orders: Annotated[Orders, with_session(Orders)]) -> int:
    await publish(OrderPlaced(number=1))
    return 0
