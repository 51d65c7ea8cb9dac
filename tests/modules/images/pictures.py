"""Pictures for tests, made here."""

import io
from typing import Any

from PIL import Image

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def picture(name: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    """An image file of the format `name`."""
    output = io.BytesIO()
    noise = Image.effect_noise(size, 50)
    (noise.convert("I").convert(mode) if mode == "I;16" else noise.convert(mode)).save(output, name, **options)
    return output.getvalue()
