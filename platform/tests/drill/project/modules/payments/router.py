"""Payments over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Body

from kernel import problems, requires, with_session
from kernel.ext.idempotency import idempotent
from modules.payments.repository import PaymentRepository

router = APIRouter()


@router.post("", status_code=201, dependencies=[requires("payments:write"), idempotent], responses=problems(400, 409))
async def create_payment(
    cents: Annotated[int, Body(ge=1, le=10**9)], payments: Annotated[PaymentRepository, with_session(PaymentRepository)]
) -> int:
    """Create a payment and return its number."""
    return (await payments.create(cents=cents)).id
