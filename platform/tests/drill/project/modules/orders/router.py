"""Orders over HTTP."""

from fastapi import APIRouter

from kernel import Session, requires
from kernel.ext.messaging import publish
from modules.orders.contract import OrderPlaced

router = APIRouter()


@router.post("/{number}", status_code=202, dependencies=[requires("orders:write")])
async def place_order(number: int, _session: Session) -> None:
    """Place an order."""
    await publish(OrderPlaced(number=number))
