"""Exchange rates over HTTP."""

from fastapi import APIRouter

from kernel import public
from kernel.ext.cache import cached

router = APIRouter()


@router.get("", dependencies=[public, cached(60, shared=True)])
async def read_rates() -> dict[str, float]:
    """Return what one euro costs."""
    return {"CHF": 0.93}
