"""Codes over HTTP."""

import secrets

from fastapi import APIRouter

from kernel import public
from kernel.ext.rate_limit import limited

router = APIRouter()


@router.post("", status_code=201, dependencies=[public, limited("3/day")])
async def create_code() -> str:
    """Return a new code."""
    return secrets.token_hex(4)
