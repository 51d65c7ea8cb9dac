"""The store over HTTP."""

from fastapi import APIRouter

from kernel import TheKernel, public
from kernel.ext.store import SharedStore

router = APIRouter()


@router.get("", dependencies=[public])
async def read_store(kernel: TheKernel) -> bool:
    """Return whether all processes share a store."""
    return kernel.get(SharedStore).is_configured
