"""The images in a request: files of a form, the body itself, or base64 in JSON."""

import base64
import binascii
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from flowerlib.serving.limits import Limits

JSON_NAMES = ("image", "images", "file", "files", "photo", "photos")
OPTIONS = ("top", "activation_map", "similar")  # of the address
MEMORY_PER_BYTE = 8  # of JSON, while it is parsed: its text takes up to four bytes a character, and is copied
URL_SAFE = bytes.maketrans(b"-_", b"+/")
BINARY = {"type": "string", "format": "binary"}  # by which Swagger UI shows a button to choose a file
IMAGE_IN_JSON = {"type": "string", "description": "The image in base64, or as a data URL."}
REQUEST_BODY = {  # for OpenAPI
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {
                        "type": "array",
                        "items": BINARY,
                        "description": "One image or many: JPEG, PNG, WebP, HEIC and most others. Any name will do.",
                    }
                },
                "required": ["files"],
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"image": IMAGE_IN_JSON, "images": {"type": "array", "items": IMAGE_IN_JSON}},
            }
        },
        "application/octet-stream": {"schema": BINARY},
        "image/*": {"schema": BINARY},
    },
}


@dataclass(frozen=True)
class Upload:
    """An image as it was sent.

    Attributes:
        name: the file's, or where in the request it is.
        content: what is in the file.
    """

    name: str
    content: BinaryIO


async def receive(request: Request, limits: Limits) -> list[Upload] | bytes:
    """Return the images of a request; JSON as it is, since to parse it takes time and memory.

    Raises:
        HTTPException: there is no image, there are too many, or the client has gone.
    """
    try:
        return await _receive(request, limits)
    except ClientDisconnect:
        raise HTTPException(400, "the request ended early") from None


async def _receive(request: Request, limits: Limits) -> list[Upload] | bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _files_of_form(request, limits)
    body = b"".join([chunk async for chunk in request.stream()])
    if not body:
        raise HTTPException(400, "the request has no body; send an image")
    is_json = kind == "application/json" or body[:64].lstrip().startswith(b"{")  # as no image begins
    return body if is_json else [Upload("body", io.BytesIO(body))]


async def _files_of_form(request: Request, limits: Limits) -> list[Upload]:
    if "boundary=" not in request.headers["content-type"].lower():
        raise HTTPException(400, "`Content-Type` has no boundary; leave this header to your client, which adds it")
    form = (await request.form(max_files=limits.files, max_fields=limits.files)).multi_items()
    _refuse_options(name for name, _ in form)
    files = [value for _, value in form if isinstance(value, UploadFile) and (value.filename or value.size)]
    if not files:
        raise HTTPException(400, "the form has no file; send each image as a file, under any name")
    return [Upload(file.filename or "", file.file) for file in files]


def parse_json(body: bytes, limits: Limits) -> list[Upload]:
    """Return the images in a JSON object: `image`, or another of `JSON_NAMES`, is one in base64 or a list of such.

    Raises:
        HTTPException: the JSON is something else, an image is no base64, or there are too many.
    """
    # Before it is parsed, as each value takes much more memory than its few bytes; a data URL has one comma of its own.
    if sum(map(body.count, (b",", b"[", b"{"))) > 4 * limits.files + 64:
        raise HTTPException(400, f"the JSON has too many values; send at most {limits.files} images")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the JSON must be an object with `image`")
    _refuse_options(found)
    texts = [each for name in JSON_NAMES if name in found for each in _texts(name, found[name])]
    if not texts:
        raise HTTPException(400, "the JSON has no `image`")
    if len(texts) > limits.files:
        raise HTTPException(400, f"Too many files. Maximum number of files is {limits.files}.")
    return [Upload(name, io.BytesIO(_from_base64(name, text))) for name, text in texts]


def _refuse_options(names: Iterable[str]) -> None:
    if found := [name for name in names if name in OPTIONS]:
        raise HTTPException(400, f"`{found[0]}` belongs in the address: /predict?{found[0]}=...")


def _texts(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, list):
        return [(f"{name}[{index}]", each) for index, each in enumerate(value)]
    return [(name, value)]


def _from_base64(name: str, text: object) -> bytes:
    """Decode base64: of a data URL or alone, standard or URL-safe, in lines or not, padded or not."""
    try:
        if not isinstance(text, str):
            raise ValueError
        if text.startswith("data:"):
            head, _, text = text.partition(",")
            if not head.endswith(";base64"):
                raise ValueError
        encoded = text.encode("ascii").translate(URL_SAFE, b" \t\r\n=")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise HTTPException(400, f"`{name}` must be an image in base64, not its path or address") from None
