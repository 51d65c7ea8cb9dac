"""The types that pydantic 2 writes to JSON and reads back unchanged, as measured."""

# As values, and as the keys of a mapping.
KEYS = frozenset(
    {
        "str", "int", "float", "bool", "Literal", "datetime.datetime", "datetime.date", "datetime.time",
        "datetime.timedelta", "uuid.UUID", "decimal.Decimal", "pathlib.Path", "pathlib.PurePath",
        "pathlib.PurePosixPath", "fractions.Fraction", "zoneinfo.ZoneInfo",
        *(f"ipaddress.IP{version}{what}" for version in ("v4", "v6") for what in ("Address", "Network", "Interface")),
    }
)  # fmt: skip
_PLAIN = KEYS - {"Literal"} | {"None", "typing.Self"}
_CONTAINERS = frozenset(
    {
        "list", "dict", "set", "frozenset", "tuple",
        "collections.abc.Sequence", "collections.abc.Mapping", "collections.abc.Set",
    }
)  # fmt: skip
# The reason why other types cannot be sent, by the start of their name. The longest match counts.
_ORIGINS = {
    "sqlalchemy": "belongs to the database",
    "fastapi": "belongs to one request",
    "starlette": "belongs to one request",
    "kernel.database": "belongs to the database",
    "kernel.web": "belongs to one request",
    "kernel.Session": "belongs to the database",
    "httpx2": "is a connection",
    "typing.Any": "allows any type",
    "object": "allows any type",
    "pydantic.BaseModel": "allows any type",
    "pydantic.Secret": "is written as asterisks",
    "pydantic.SecretStr": "is written as asterisks",
    "pydantic.SecretBytes": "is written as asterisks",
    "pydantic.Json": "is written as its content, but read as text",
    "pydantic.ImportString": "is code, which stays in its process",
    "pydantic.InstanceOf": "is never read from JSON",
    "pydantic.SkipValidation": "is never read from JSON",
    "pydantic.TypeAdapter": "is code, which stays in its process",
    "pydantic.FilePath": "is looked up on the reader's disk",
    "pydantic.DirectoryPath": "is looked up on the reader's disk",
    "pydantic.NewPath": "is looked up on the reader's disk",
    "bytes": "is not text, and needs ser_json_bytes and val_json_bytes='base64' in its model",
    "collections.abc": "is code or a stream, which stays in its process",
    "typing": "is code or a stream, which stays in its process",
    "io": "is an open file, which stays in its process",
}


def is_wire_type(name: str) -> bool:
    """Return whether a type can be sent as it is."""
    return name in _PLAIN


def why_not(name: str, *, has_arguments: bool) -> str | None:
    """Return why a type, by its full name, cannot be sent; None if it can."""
    if name in _CONTAINERS:
        return None if has_arguments else "does not name its element type"
    if is_wire_type(name) or name.startswith("kernel.ext.fields."):
        return None
    origin = next((one for one in sorted(_ORIGINS, key=len, reverse=True) if f"{name}.".startswith(f"{one}.")), None)
    if origin is not None:
        return _ORIGINS[origin]
    if name.startswith(("pydantic.", "pydantic_extra_types.", "annotated_types.")):
        return None
    return "is not known to be written to JSON and read back by pydantic"
