"""The HTTP routes of images."""

from typing import Annotated

from fastapi import APIRouter, Form, Header, HTTPException, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from kernel import (
    Conditional,
    ExpectedVersions,
    for_caller,
    from_module,
    or_404,
    problems,
    requires,
)
from kernel.ext.fields import Id
from kernel.ext.idempotency import idempotent
from kernel.ext.paging import Page
from kernel.web.conditional import matches
from modules.images.ranges import Unsatisfiable, requested
from modules.images.repository import ImageRepository
from modules.images.schemas import FORM_TYPES, THUMBNAIL_TYPE, ImageIn, ImageOut, ImagePatch, ImageQuery, StoredImage
from modules.images.service import ImageService

router = APIRouter()

ImageId = Annotated[Id, Path()]
ReadableImages = Annotated[ImageRepository, for_caller(ImageRepository, "images:read")]
WritableImages = Annotated[ImageRepository, for_caller(ImageRepository, "images:write")]
Service = Annotated[ImageService, from_module(ImageService)]
IfNoneMatch = Annotated[str | None, Header()]

# The bytes of an image never change, but it can be deleted: clients revalidate each time and get 304.
_CACHING = {"Cache-Control": "private, no-cache"}


@router.get("")
async def list_images(query: Annotated[ImageQuery, Query()], images: ReadableImages) -> Page[ImageOut]:
    """List images, by default the newest first."""
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
    images: WritableImages,
    service: Service,
    etag: Conditional,
    request: Request,
    response: Response,
) -> ImageOut:
    """Upload an image. Its type is determined from its bytes; its file name is not kept."""
    created = await service.store(upload.file.read, upload.caption, images)
    response.headers["Location"] = f"{request.url.path}/{created.id}"
    etag.set(created.version)
    return created


@router.get("/{image_id}", responses=problems(404))
async def read_image(image_id: ImageId, images: ReadableImages, etag: Conditional) -> ImageOut:
    """Read the metadata of an image. The answer is 304 if the version in If-None-Match is current."""
    image = or_404(await images.get_by_id(image_id, into=ImageOut), "image")
    etag.set(image.version)
    return image


@router.patch("/{image_id}", responses=problems(404, 412))
async def patch_image(
    image_id: ImageId, image: ImagePatch, images: WritableImages, expected: ExpectedVersions, etag: Conditional
) -> ImageOut:
    """Change an image's caption."""
    values = image.model_dump(exclude_unset=True)
    changed = or_404(await images.update(image_id, into=ImageOut, expected_version=expected, **values), "image")
    etag.set(changed.version)
    return changed


@router.delete("/{image_id}", status_code=204, responses=problems(404, 412))
async def delete_image(image_id: ImageId, images: WritableImages, expected: ExpectedVersions, service: Service) -> None:
    """Delete an image and its bytes."""
    image = or_404(await images.get_by_id(image_id, into=StoredImage), "image")
    or_404(await service.delete(image, expected, images), "image")


@router.head("/{image_id}/content", include_in_schema=False)
@router.get("/{image_id}/content", response_class=Response, responses=problems(404, 416, 503))
async def read_content(
    image_id: ImageId,
    images: ReadableImages,
    service: Service,
    request: Request,
    if_none_match: IfNoneMatch = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Download the image as it was uploaded, or the range of it that `Range` requests.

    Data that is appended to an image is kept, because many cameras append some to a JPEG. It cannot be executed: the
    response has the image's own type, `nosniff` and a content security policy that allows no scripts.
    """
    image = or_404(await images.get_by_id(image_id, into=StoredImage), "image")
    tag = f'"{image.sha256}"'
    headers = _CACHING | {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="image-{image.id}.{image.content_type.partition("/")[2]}"',
    }
    if if_none_match is not None and matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":  # Range is defined for GET only (RFC 9110, section 14.2)
        headers["Content-Length"] = str(image.size_bytes)
        return Response(headers=headers, media_type=image.content_type)
    try:
        span = requested(range_, image.size_bytes) if if_range in {None, tag} else None
    except Unsatisfiable:
        whole = {"Content-Range": f"bytes */{image.size_bytes}"}
        raise HTTPException(416, "The range begins after the end of the image.", whole) from None
    start, end = (span.start, span.end) if span else (0, image.size_bytes)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{image.size_bytes}"
    parts = await service.storage.read(image.content_key, start, end)
    return StreamingResponse(parts, 206 if span else 200, headers, media_type=image.content_type)


@router.get("/{image_id}/thumbnail", response_class=Response, responses=problems(404, 503))
async def read_thumbnail(
    image_id: ImageId, images: ReadableImages, service: Service, if_none_match: IfNoneMatch = None
) -> Response:
    """Download a small WebP of the image: upright, re-encoded, without metadata."""
    image = or_404(await images.get_by_id(image_id, into=StoredImage), "image")
    tag = f'"{image.sha256}-thumbnail"'
    headers = _CACHING | {"ETag": tag}
    if if_none_match is not None and matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(await service.storage.read_all(image.thumbnail_key), headers=headers, media_type=THUMBNAIL_TYPE)
