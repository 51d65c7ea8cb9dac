"""Exchange rates over HTTP."""

from fastapi import APIRouter

from kernel import Conditional, public
from kernel.ext.cache import cached

router = APIRouter()


@router.get("", dependencies=[public, cached(60, shared=True)])
async def read_rates(etag: Conditional) -> dict[str, float]:
    """Return what one euro costs."""
    etag.set("2026-01-01")
    return {"CHF": 0.93}
