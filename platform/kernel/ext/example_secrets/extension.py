"""The extension `example_secrets`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from kernel.extension import Extension
from kernel.settings import Environment, Fault, SettingsGroup, Sources

# The beginnings of placeholders for secrets in examples, tutorials, compose.yaml and env_files.
_EXAMPLES = (
    "change-me",
    "changeme",
    "example",
    "password",
    "secret",
    "postgres",
    "admin",
    "minioadmin",
    "guest",
    "local-only",
    "test",
    "todo",
    "xxx",
)
# The secret entries of a dictionary or of a URL's query. Other entries are regions, buckets and endpoints.
_SECRET_ENTRY = re.compile(r"key|secret|token|password|credential|sas|sig", re.IGNORECASE)


class ExampleSecrets(Extension):
    """Refuses secrets that are empty or an example, in UAT and PROD."""

    name = "example_secrets"

    def check_settings(
        self, sources: Sources, groups: Sequence[SettingsGroup], elsewhere: Collection[str]
    ) -> Iterator[Fault]:
        for group in groups:
            if group.environment in {Environment.UAT, Environment.PROD}:
                yield from _unsafe(group, sources)


def _unsafe(group: SettingsGroup, sources: Sources) -> Iterator[Fault]:
    where = f"which is refused in {group.environment}"
    for (name, value), field in zip(group.values(), type(group).model_fields.values(), strict=True):
        if "SecretStr" in str(field.annotation) and _is_given_empty(name, sources):
            yield Fault(name, f"is empty, {where}: set the secret or remove the variable")
        for place, secret in _secrets(name, value):
            if _is_example(secret):
                yield Fault(place, f"is an example secret, {where}: set another one")


def _is_given_empty(name: str, sources: Sources) -> bool:
    """Return whether the highest layer that contains `name` sets it to an empty value."""
    mentioned = next((layer for layer in sources.layers if name in layer.values), None)
    return mentioned is not None and not mentioned.values[name]


def _secrets(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every secret in a value, at any depth, with the variable that sets it."""
    match value:
        case SecretStr():
            yield name, value.get_secret_value()
        case BaseModel():
            for field in type(value).model_fields:
                yield from _secrets(f"{name}__{field.upper()}", getattr(value, field))
        case Mapping():
            for key, one in value.items():
                if not isinstance(one, SecretStr) or _SECRET_ENTRY.search(str(key)):
                    yield from _secrets(f"{name}__{str(key).upper()}", one)
        case list() | tuple() | set() | frozenset():
            for one in value:
                yield from _secrets(name, one)


def _is_example(secret: str) -> bool:
    """Return whether a secret, one of several separated by commas, or the password in a URL is an example."""
    if "://" in secret:
        url = urlsplit(secret)
        parts = [value for key, value in parse_qsl(url.query) if _SECRET_ENTRY.search(key)]
        parts.append(unquote(url.password or ""))
    else:
        parts = secret.split(",")
    return any(part.strip().strip("<>").lower().startswith(_EXAMPLES) for part in parts)
