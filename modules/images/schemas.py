"""Request and response bodies of images."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import UploadFile
from pydantic import BaseModel, Field, StringConstraints

from kernel.ext.fields import NoNul, Omittable, RequestBody
from kernel.ext.paging import PageRequest

THUMBNAIL_TYPE = "image/webp"
# The accepted types of the uploaded file, for OpenAPI.
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
    """The fields to change. Omitted fields keep their values."""

    caption: Caption = Omittable


class ImageOut(BaseModel):
    """The metadata of an image."""

    id: int
    caption: str
    content_type: str
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="Also the ETag. Send it as If-Match to prevent overwriting a newer version.")


class StoredImage(BaseModel):
    """The storage keys of an image, for use inside this module only."""

    id: int
    content_type: str
    size_bytes: int
    sha256: str
    content_key: str
    thumbnail_key: str


class ImageSort(StrEnum):
    """The sort orders of the list. A leading `-` means descending."""

    OLDEST = "created_at"
    NEWEST = "-created_at"


class ImageQuery(PageRequest):
    """Sort order and page of a list of images."""

    sort: ImageSort = ImageSort.NEWEST
