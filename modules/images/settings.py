"""Where the bytes are kept, and how much of them an upload may bring."""

from pydantic import Field, SecretStr, model_validator

from kernel import ModuleSettings

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
    # By the header, before anything is decoded: 49 million pixels take 190 MiB (PNG) to 790 MiB (WebP) for a moment.
    max_pixels: int = Field(50_000_000, ge=1)
    # The longer side of a thumbnail.
    thumbnail_pixels: int = Field(320, ge=16, le=2048)
    # Decoding uses a core each, and memory as above; others wait. One takes 20 ms for what a phone's camera makes.
    max_concurrent_decodes: int = Field(1, ge=1)
    # Past so many that wait, an upload is answered 503: each is in memory, also when its caller has left.
    max_waiting_decodes: int = Field(20, ge=0)

    max_body_bytes: int = Field(
        default_factory=lambda data: data.get("max_upload_bytes", 10 << 20) + _FORM_OVERHEAD_BYTES, ge=0
    )

    @model_validator(mode="after")
    def _uploads_fit(self) -> "ImagesSettings":
        if self.max_body_bytes < self.max_upload_bytes:
            raise ValueError("IMAGES_MAX_BODY_BYTES is less than IMAGES_MAX_UPLOAD_BYTES: no such upload could arrive")
        return self
