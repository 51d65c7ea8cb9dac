"""The messages of orders."""

from kernel.ext.messaging import Message


class OrderPlaced(Message):
    """An order has been placed."""

    number: int
