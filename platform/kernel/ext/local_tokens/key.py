"""The developer's own key for tokens in LOCAL."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "local"
"""The `kid` and the `iss` of these tokens."""


def path(root: Path) -> Path:
    """Return the place of the project's key, which `sign` creates when it is missing."""
    return root / "data" / "local-key.pem"


def sign(key: Path, subject: str, scopes: Iterable[str], roles: Iterable[str], seconds: float) -> str:
    """Return a token that is valid for that many seconds. A missing key is created."""
    import jwt  # noqa: PLC0415

    if not key.exists():
        _make(key)
    claims = {
        "iss": NAME,
        "sub": subject,
        "scope": " ".join(scopes),
        "roles": list(roles),
        "exp": int(time.time() + seconds),
    }
    return jwt.encode(claims, key.read_text(), "EdDSA", headers={"kid": NAME})


def public(key: Path) -> Any:
    """Return the public key. Raises ValueError if there is no key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        return load_pem_private_key(key.read_bytes(), None).public_key()
    except OSError as error:
        raise ValueError(f"there is no local key ({error.strerror}): create one with `kernel token`") from error


def _make(key: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.parent.mkdir(parents=True, exist_ok=True)
    beside = key.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    beside.replace(key)
