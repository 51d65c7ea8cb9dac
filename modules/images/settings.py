"""Where the bytes are kept, and how much of them an upload may bring."""

import re

from pydantic import Field, SecretStr, field_validator, model_validator

from kernel import ModuleSettings

# A secret key may hold a slash, which the parser of URLs takes for the end of the host.
_CREDENTIALS = re.compile(r"://[^@]*:[^@]*@")
# What a multipart body has around the file: boundaries, headers, the caption.
_FORM_OVERHEAD_BYTES = 64 << 10


class ImagesSettings(ModuleSettings):
    """Settings of images."""

    # A directory (relative to the project's), or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.
    storage_url: str = "data/images"
    # What the store needs beyond its URL, under obstore's names: IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY=...
    # An endpoint that begins with http:// is talked to without TLS.
    storage_options: dict[str, SecretStr] = Field(default_factory=dict)
    max_upload_bytes: int = Field(10 << 20, ge=1)
    # By the header, before anything is decoded.
    max_pixels: int = Field(50_000_000, ge=1)
    # What a process that decodes may use (Linux): PNG, JPEG and GIF take up to 9 bytes a pixel, WebP takes 17. So
    # 50 million pixels fit, as a WebP 27 million. deploy/kubernetes has room for it, and for the uploads in memory.
    max_decode_memory_bytes: int = Field(448 << 20, ge=32 << 20)
    # One takes 20 ms for what a phone's camera makes; a file that is made to be slow takes as long as it may.
    max_decode_seconds: float = Field(20, gt=0)
    # The longer side of a thumbnail.
    thumbnail_pixels: int = Field(320, ge=16, le=2048)
    # Each is a process that uses a core, and memory as above. Callers take turns.
    max_concurrent_decodes: int = Field(1, ge=1)
    # Uploads that are decoded, wait for it, or are written to the store.
    max_uploads_in_memory: int = Field(8, ge=1)
    # Uploads that wait for those, on disk. One more is answered 503, or displaces one of a caller who has more of them.
    max_waiting_uploads: int = Field(20, ge=0)

    max_body_bytes: int = Field(
        default_factory=lambda data: data.get("max_upload_bytes", 10 << 20) + _FORM_OVERHEAD_BYTES, ge=0
    )

    @field_validator("storage_url")
    @classmethod
    def _holds_no_secret(cls, value: str) -> str:
        if _CREDENTIALS.search(value):
            options = "IMAGES_STORAGE_OPTIONS__ACCESS_KEY_ID and IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY"
            raise ValueError(f"may hold no user and password: give them as {options}")
        return value

    @model_validator(mode="after")
    def _uploads_fit(self) -> "ImagesSettings":
        if self.max_body_bytes < self.max_upload_bytes:
            raise ValueError("IMAGES_MAX_BODY_BYTES is less than IMAGES_MAX_UPLOAD_BYTES: no such upload could arrive")
        return self
