"""Images over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Form, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from kernel import (
    Conditional,
    ExpectedVersions,
    RangeNotSatisfiable,
    for_caller,
    found,
    from_module,
    problems,
    requires,
)
from kernel.database import Page
from kernel.ext.idempotency import idempotent
from kernel.fields import Id
from kernel.web.conditional import matches
from modules.images.ranges import Unsatisfiable, requested
from modules.images.repository import ImageRepository
from modules.images.schemas import FORM_TYPES, THUMBNAIL_TYPE, ImageIn, ImageOut, ImagePatch, ImageQuery, StoredImage
from modules.images.service import ImageService

router = APIRouter()

ImageId = Annotated[Id, Path()]
Seen = Annotated[ImageRepository, for_caller(ImageRepository, "images:read")]
Changed = Annotated[ImageRepository, for_caller(ImageRepository, "images:write")]
Service = Annotated[ImageService, from_module(ImageService)]
IfNoneMatch = Annotated[str | None, Header()]

# The bytes of an image never change, but it may be deleted: ask again each time, and get 304.
_CACHING = {"Cache-Control": "private, no-cache"}


@router.get("")
async def list_images(query: Annotated[ImageQuery, Query()], images: Seen) -> Page[ImageOut]:
    """List images, the newest first unless asked otherwise."""
    return await images.find(query)


@router.post(
    "",
    dependencies=[requires("images:write"), idempotent],
    status_code=201,
    form_limits={"max_files": 1, "max_fields": 1},
    responses=problems(400, 409, 413, 415, 503, 507),
    openapi_extra=FORM_TYPES,
)
async def upload_image(
    upload: Annotated[ImageIn, Form(media_type="multipart/form-data")],
    images: Changed,
    service: Service,
    etag: Conditional,
    request: Request,
    response: Response,
) -> ImageOut:
    """Upload a picture. Its type is what its bytes say; its name is not kept."""
    kept = await service.keep(upload.file.read, upload.caption, images)
    response.headers["Location"] = f"{request.url.path}/{kept.id}"
    etag.set(kept.version)
    return kept


@router.get("/{image_id}", responses=problems(404))
async def read_image(image_id: ImageId, images: Seen, etag: Conditional) -> ImageOut:
    """Read what is known of an image; 304 if the caller's version (If-None-Match) is the current one."""
    image = found(await images.get_by_id(image_id, into=ImageOut), "image")
    etag.set(image.version)
    return image


@router.patch("/{image_id}", responses=problems(404, 412))
async def patch_image(
    image_id: ImageId, image: ImagePatch, images: Changed, expected: ExpectedVersions, etag: Conditional
) -> ImageOut:
    """Change an image's caption."""
    values = image.model_dump(exclude_unset=True)
    changed = found(await images.update(image_id, into=ImageOut, expected_version=expected, **values), "image")
    etag.set(changed.version)
    return changed


@router.delete("/{image_id}", status_code=204, responses=problems(404, 412))
async def delete_image(image_id: ImageId, images: Changed, expected: ExpectedVersions, service: Service) -> None:
    """Delete an image and its bytes."""
    image = found(await images.get_by_id(image_id, into=StoredImage), "image")
    found(await service.discard(image, expected, images), "image")


@router.head("/{image_id}/content", include_in_schema=False)
@router.get("/{image_id}/content", response_class=Response, responses=problems(404, 416, 503))
async def read_content(
    image_id: ImageId,
    images: Seen,
    service: Service,
    request: Request,
    if_none_match: IfNoneMatch = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The picture as it was uploaded, or the part of it that `Range` names.

    What somebody hid in or behind it comes too, harmlessly: it is sent as the image that it begins as, with `nosniff`
    and a policy that runs nothing. Cameras put much behind a JPEG, so refusing that would refuse good pictures.
    """
    image = found(await images.get_by_id(image_id, into=StoredImage), "image")
    tag = f'"{image.sha256}"'
    headers = _CACHING | {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="image-{image.id}.{image.content_type.partition("/")[2]}"',
    }
    if if_none_match is not None and matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":  # Range is for GET alone (RFC 9110, section 14.2)
        headers["Content-Length"] = str(image.size_bytes)
        return Response(headers=headers, media_type=image.content_type)
    try:
        span = requested(range_, image.size_bytes) if if_range in {None, tag} else None
    except Unsatisfiable:
        whole = {"Content-Range": f"bytes */{image.size_bytes}"}
        raise RangeNotSatisfiable("The range begins behind the end of the image.", headers=whole) from None
    start, end = (span.start, span.end) if span else (0, image.size_bytes)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{image.size_bytes}"
    parts = await service.storage.read(image.content_key, start, end)
    return StreamingResponse(parts, 206 if span else 200, headers, media_type=image.content_type)


@router.get("/{image_id}/thumbnail", response_class=Response, responses=problems(404, 503))
async def read_thumbnail(
    image_id: ImageId, images: Seen, service: Service, if_none_match: IfNoneMatch = None
) -> Response:
    """A small WebP of the picture: upright, re-encoded, without the camera's metadata."""
    image = found(await images.get_by_id(image_id, into=StoredImage), "image")
    tag = f'"{image.sha256}-thumbnail"'
    headers = _CACHING | {"ETag": tag}
    if if_none_match is not None and matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(await service.storage.read_all(image.thumbnail_key), headers=headers, media_type=THUMBNAIL_TYPE)
