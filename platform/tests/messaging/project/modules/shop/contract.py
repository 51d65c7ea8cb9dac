from kernel.ext.messaging import Message


class OrderPlaced(Message, key="customer"):
    number: int
    customer: str | None = None
