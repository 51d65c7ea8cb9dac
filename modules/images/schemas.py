"""What goes over the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import UploadFile
from pydantic import BaseModel, Field, StringConstraints

from kernel.database import PageRequest
from kernel.fields import NoNul, Omittable, RequestBody

THUMBNAIL_TYPE = "image/webp"
# What OpenAPI says of the file in the form of an upload.
FORM_TYPES = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "encoding": {"file": {"contentType": "image/png, image/jpeg, image/webp, image/gif"}}
            }
        }
    }
}

Caption = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=500), Field(examples=["The town hall at night"]), NoNul
]


class ImageIn(RequestBody):
    """The form of an upload."""

    file: UploadFile = Field(description="A PNG, JPEG, WebP or GIF.")
    caption: Caption = ""


class ImagePatch(RequestBody):
    """The fields to change; those left out stay as they are."""

    caption: Caption = Omittable


class ImageOut(BaseModel):
    """What is known of a picture."""

    id: int
    caption: str
    content_type: str
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="Also the ETag: send it as If-Match to change only what you have seen.")


class StoredImage(BaseModel):
    """Where a picture's bytes are. Never leaves the module."""

    id: int
    content_type: str
    size_bytes: int
    sha256: str
    content_key: str
    thumbnail_key: str


class ImageSort(StrEnum):
    """The orders in which images can be listed; `-` is descending."""

    OLDEST = "created_at"
    NEWEST = "-created_at"


class ImageQuery(PageRequest):
    """Which page of images is wanted, in which order."""

    sort: ImageSort = ImageSort.NEWEST
