"""The settings of images."""

import re

from pydantic import Field, SecretStr, field_validator, model_validator

from kernel import ModuleSettings

# Not urlsplit: a secret key may contain a slash, which urlsplit takes for the end of the host.
_CREDENTIALS = re.compile(r"://[^@]*:[^@]*@")
# The rest of a multipart body: boundaries, headers, the caption.
_FORM_OVERHEAD_BYTES = 64 << 10


class ImagesSettings(ModuleSettings):
    """Settings of images."""

    # A directory (relative to the project's), or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.
    storage_url: str = "data/images"
    # Further options under obstore's names: IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY=...
    # An endpoint that begins with http:// is used without TLS.
    storage_options: dict[str, SecretStr] = Field(default_factory=dict)
    max_upload_bytes: int = Field(10 << 20, ge=1)
    # Checked in the file's header, before decoding.
    max_pixels: int = Field(50_000_000, ge=1)
    # Per decoding process, on Linux. PNG, JPEG and GIF take up to 9 bytes a pixel, WebP takes 17. So 50 million pixels
    # fit, or 27 million as a WebP. The memory limit in deploy/kubernetes covers this and the uploads in memory.
    max_decode_memory_bytes: int = Field(448 << 20, ge=32 << 20)
    # A photo of a phone takes 20 ms; a file that is crafted to be slow takes all the time that it gets.
    max_decode_seconds: float = Field(20, gt=0)
    # The longer side of a thumbnail.
    thumbnail_pixels: int = Field(320, ge=16, le=2048)
    # Each is a process that uses one core and the memory above. Waiting callers are served round robin.
    max_concurrent_decodes: int = Field(1, ge=1)
    # Uploads that wait for decoding, are decoded, or are written to the store.
    max_uploads_in_memory: int = Field(8, ge=1)
    # Uploads that wait on disk for memory. One more is answered 503 or displaces one of a caller that has more of them.
    max_waiting_uploads: int = Field(20, ge=0)

    max_body_bytes: int = Field(
        default_factory=lambda data: data.get("max_upload_bytes", 10 << 20) + _FORM_OVERHEAD_BYTES, ge=0
    )

    @field_validator("storage_url")
    @classmethod
    def _holds_no_secret(cls, value: str) -> str:
        if _CREDENTIALS.search(value):
            options = "IMAGES_STORAGE_OPTIONS__ACCESS_KEY_ID and IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY"
            raise ValueError(f"must not contain a user and password: set {options} instead")
        return value

    @model_validator(mode="after")
    def _uploads_fit(self) -> "ImagesSettings":
        if self.max_body_bytes < self.max_upload_bytes:
            raise ValueError("IMAGES_MAX_BODY_BYTES is less than IMAGES_MAX_UPLOAD_BYTES: set it to a larger value")
        return self
