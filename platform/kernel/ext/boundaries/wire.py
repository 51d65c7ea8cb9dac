"""Which types pydantic turns into JSON and back into the same, as measured with pydantic 2."""

# As they are, and as the keys of a mapping.
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
# Where other types come from, and what they are. The longest name decides.
_ORIGINS = {
    "sqlalchemy": "belongs to the database",
    "fastapi": "belongs to one request",
    "starlette": "belongs to one request",
    "kernel.database": "belongs to the database",
    "kernel.web": "belongs to one request",
    "kernel.Session": "belongs to the database",
    "httpx2": "is a connection",
    "typing.Any": "says nothing of what crosses",
    "object": "says nothing of what crosses",
    "pydantic.BaseModel": "says nothing of what crosses",
    "pydantic.Secret": "is written as asterisks",
    "pydantic.SecretStr": "is written as asterisks",
    "pydantic.SecretBytes": "is written as asterisks",
    "pydantic.Json": "is written as what is in it, and read as text",
    "pydantic.ImportString": "is code, and stays in its process",
    "pydantic.InstanceOf": "is never read from JSON",
    "pydantic.SkipValidation": "is never read from JSON",
    "pydantic.TypeAdapter": "is code, and stays in its process",
    "pydantic.FilePath": "is looked for on the disk of whoever reads it",
    "pydantic.DirectoryPath": "is looked for on the disk of whoever reads it",
    "pydantic.NewPath": "is looked for on the disk of whoever reads it",
    "bytes": "is no text, so JSON holds it only in a value with ser_json_bytes and val_json_bytes='base64'",
    "collections.abc": "is code or a stream, and stays in its process",
    "typing": "is code or a stream, and stays in its process",
    "io": "is an open file, and stays in its process",
}


def is_wire_type(name: str) -> bool:
    """Whether it crosses as it is."""
    return name in _PLAIN


def why_not(name: str, *, is_said: bool) -> str | None:
    """Why a type, by its full name, cannot cross; None if it can. `is_said`: something stands in its brackets."""
    if name in _CONTAINERS:
        return None if is_said else "does not say of what it is"
    if is_wire_type(name) or name.startswith("kernel.fields."):
        return None
    origin = next((one for one in sorted(_ORIGINS, key=len, reverse=True) if f"{name}.".startswith(f"{one}.")), None)
    if origin is not None:
        return _ORIGINS[origin]
    if name.startswith(("pydantic.", "pydantic_extra_types.", "annotated_types.")):
        return None
    return "is nothing that pydantic is known to turn into JSON and back"
