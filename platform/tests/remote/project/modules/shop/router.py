from typing import Annotated

from fastapi import APIRouter

from kernel import public, use
from modules.prices.contract import Prices

router = APIRouter(dependencies=[public])


@router.get("/{thing}")
async def price(thing: str, prices: Annotated[Prices, use(Prices)]) -> int:
    return (await prices.of(thing)).cents
