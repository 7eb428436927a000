"""Decode any photograph that Pillow reads into the square of pixels that the networks take."""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from flowerlib.config import FlowersError
from flowerlib.photos import colour, formats
from flowerlib.photos import jpeg as jpegs
from flowerlib.photos.colour import Conversion

Fit = Literal["crop", "pad"]
Memory = Callable[[int], AbstractContextManager[object]]  # a number of pixels -> reserves the memory to decode them
MAX_PIXELS = 178_956_970  # Pillow's own limit, beyond which it suspects a decompression bomb
MAX_SCANS = 100  # of a JPEG: ten are usual; each further one costs 14 bytes, and a pass over the whole image to decode
JPEG_QUALITY = 95  # beyond it files grow and look no better
PADDING_COLOUR = (127, 127, 127)  # mid-grey: about 0 after the networks' scaling
PIXELS_PER_BLOCK = 1 << 18  # converted and resized at a time
LANCZOS_RADIUS = 3  # of the filter, in pixels of the smaller of the two images


def read(
    file: Path | BinaryIO,
    size: int,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
    memory: Memory = nullcontext,
) -> np.ndarray:
    """Decode an image to `(size, size, 3)` uint8, RGB, upright as its EXIF says; of an animation the first frame.

    Transparent parts become white, more bits 8, other colour spaces and profiles sRGB. An image that is not square is
    cropped to the square in its middle (`crop`), or padded with grey stripes (`pad`).

    Args:
        file: a path, or an open file.
        size: side of the square in pixels.
        fit: what to do with an image that is not square.
        max_pixels: the most that the image may have.
        memory: a context manager that is entered with the number of pixels while these are decoded. They take four
            bytes each, eight where EXIF turns them, and what the reader of the format takes besides.

    Raises:
        FlowersError: the file cannot be read, is no image, is truncated, is a camera's RAW file, or has more than
            `max_pixels` pixels or `MAX_SCANS` scans.
    """
    with _flowers_errors(max_pixels):
        if isinstance(file, Path):
            _require_file(file)
            with open(file, "rb") as opened:
                return _read(opened, size, fit, max_pixels, memory)
        return _read(file, size, fit, max_pixels, memory)


def _read(file: BinaryIO, size: int, fit: Fit, max_pixels: int, memory: Memory) -> np.ndarray:
    with _open(file) as image:
        num_scans = _require_decodable(image, max_pixels)
        num_pixels = image.width * image.height
        image.draft("RGB", (2 * size, 2 * size))  # decodes a large JPEG at reduced size, several times faster
        if num_scans <= 1:  # with more, the decoder holds the image at full size all the same
            num_pixels = image.width * image.height
        with memory(num_pixels):
            _turn_upright(image)
            return np.asarray(_square(image, size, fit))


def as_jpeg(
    file: Path | BinaryIO,
    size: int,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
    memory: Memory = nullcontext,
) -> bytes:
    """Return an image as it is stored in a dataset: a JPEG of `(size, size, 3)` without metadata.

    A file that is such a JPEG already is not compressed again. Arguments and errors as in `read`.
    """
    encoded = content(file)
    with _flowers_errors(max_pixels):
        with _open(io.BytesIO(encoded)) as image:
            if (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size)) and _is_as_shown(image):
                _require_decodable(image, max_pixels)
                with memory(size * size):
                    image.load()  # raises where the file is truncated
                return jpegs.strip_metadata(encoded)
        square = Image.fromarray(_read(io.BytesIO(encoded), size, fit, max_pixels, memory))
    square.save(jpeg := io.BytesIO(), "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()


def content(file: Path | BinaryIO) -> bytes:
    """Return the bytes of a file.

    Raises:
        FlowersError: it cannot be read.
    """
    with _flowers_errors(MAX_PIXELS):
        if isinstance(file, Path):
            _require_file(file)
            return file.read_bytes()
        file.seek(0)
        return file.read()


def decode(jpeg: bytes) -> np.ndarray:
    """Decode a JPEG that `as_jpeg` returned to `(S, S, 3)` uint8, with the same pixels as in `data`."""
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@contextmanager
def _flowers_errors(max_pixels: int) -> Iterator[None]:
    """Turn every exception that reading a file may raise into a `FlowersError`."""
    try:
        yield
    except FlowersError:
        raise
    except Image.DecompressionBombError:
        raise FlowersError(f"has more than {max_pixels:,} pixels; make it smaller") from None
    except Exception as error:  # a damaged file may raise anything in Pillow's readers
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__  # strerror has no path in it
        raise FlowersError(f"cannot be read: {reason}") from None


def _open(file: BinaryIO) -> Image.Image:
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    file = io.BytesIO(formats.without_text(file.read())) if head.startswith(formats.PNG_SIGNATURE) else file
    try:
        image = Image.open(file, formats=formats.FORMATS)
    except UnidentifiedImageError:
        raise FlowersError(formats.unknown_format(head)) from None
    formats.require_no_raw(image, head)
    return image


def _require_decodable(image: Image.Image, max_pixels: int) -> int:
    """Refuse an image that takes too long to decode; return the number of a JPEG's scans, 0 for other formats."""
    if image.width * image.height > max_pixels:
        raise FlowersError(f"has {image.width * image.height:,} pixels, more than {max_pixels:,}; make it smaller")
    if image.format not in ("JPEG", "MPO"):
        return 0
    file = cast(ImageFile.ImageFile, image).fp
    assert file is not None
    file.seek(0)
    num_scans = len(list(islice(jpegs.scans(file.read()), MAX_SCANS + 1)))
    if num_scans > MAX_SCANS:
        raise FlowersError(f"has more than {MAX_SCANS} scans; save it again as a plain JPEG")
    return num_scans


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would wait for ever
        raise FlowersError("is no file; remove it")


def _turn_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF says; not where the EXIF is damaged."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # Pillow's reader of EXIF may raise anything
        image.load()  # raises where the pixels are damaged


def _is_as_shown(image: Image.Image) -> bool:
    """Whether neither EXIF turns an image nor a profile changes its colours."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        orientation = 1
    return orientation == 1 and not colour.has_other_profile(image)


def _square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    conversion = colour.conversion(image)
    width, height = image.size
    if width == height == size:
        return conversion.to_rgb(image)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resize(image, conversion, (size, size), (left, top, left + side, top + side))
    inside = round(size * min(1, width / height)), round(size * min(1, height / width))
    whole = _resize(image, conversion, inside, (0, 0, width, height))
    return ImageOps.pad(whole, (size, size), color=PADDING_COLOUR)


def _resize(
    image: Image.Image, conversion: Conversion, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """Crop to a box, convert to RGB and resize, a few rows at a time, so that only one image is held at full size.

    The pixels are those of `Image.resize`, which also resizes horizontally first and then vertically.
    """
    if 0 in size:
        raise FlowersError("is too long and narrow; crop it")
    left, right = _filter_support(box[0], box[2], size[0], image.width)
    top, bottom = _filter_support(box[1], box[3], size[1], image.height)
    rows = max(1, PIXELS_PER_BLOCK // (right - left))
    narrow = Image.new("RGB", (size[0], bottom - top))
    for row in range(top, bottom, rows):
        block = conversion.to_rgb(image.crop((left, row, right, min(row + rows, bottom))))
        across = (box[0] - left, 0, box[2] - left, block.height)
        narrow.paste(block.resize((size[0], block.height), Image.Resampling.LANCZOS, across), (0, row - top))
    return narrow.resize(size, Image.Resampling.LANCZOS, (0, box[1] - top, size[0], box[3] - top))


def _filter_support(start: float, end: float, size: int, limit: int) -> tuple[int, int]:
    """Return the range of source pixels that a filter reads to resize `start` to `end` into `size` pixels."""
    radius = LANCZOS_RADIUS * max(1, (end - start) / size) + 1
    return max(0, math.floor(start - radius)), min(limit, math.ceil(end + radius))
