"""One photograph, of any kind that Pillow reads, as the square of pixels that the networks see."""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from flowerlib.config import FlowersError
from flowerlib.photos import jpeg as jpegs

Fit = Literal["crop", "pad"]
Memory = Callable[[int], AbstractContextManager[object]]  # pixels -> what to be in while so many are decoded
MOST_PIXELS = 178_956_970  # Pillow's own limit, beyond which it takes an image for an attack
MOST_SCANS = 100  # of a JPEG. Ten are usual; 14 bytes make one more, and a decoder goes over the whole picture for each
QUALITY = 95  # of the JPEGs: beyond it they grow and look no better
GREY = (127, 127, 127)  # of padding: what the networks take for nothing
BLOCK = 1 << 18  # pixels that are converted at a time
REACH = 3  # pixels of the smaller of the two images: Lanczos' filter, to either side
warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, and about sizes below the limit
# Not those for which Pillow starts another program (EPS), or decodes before it tells the size (icons).
Image.init()
# Blocks of 16 MB, Pillow's own size, each thread's heap would keep when an image has left them free.
if "PILLOW_BLOCK_SIZE" not in os.environ:
    Image.core.set_block_size(1 << 26)
FORMATS = [name for name in Image.OPEN if name not in ("EPS", "ICNS", "ICO", "CUR", "WMF")]
DEEP = {"I": 65535.0, "I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "F": 1.0}  # mode -> white


def read(
    file: Path | BinaryIO,
    size: int,
    fit: Fit = "crop",
    most_pixels: int = MOST_PIXELS,
    memory: Memory = nullcontext,
) -> np.ndarray:
    """Return an image as `(size, size, 3)` uint8, RGB: upright as its EXIF says, its first frame where it moves.

    Transparent parts become white, 16 bits eight, other colour spaces RGB. An image that is not square loses what lies
    beyond the square in its middle (`crop`) or gets grey stripes (`pad`).

    It is decoded within `memory(pixels)`: those it has, at most `most_pixels`. It takes four bytes for each, eight
    where EXIF turns it, and what the reader of its format takes besides.

    Raises:
        FlowersError: the file cannot be read, is no image, is cut short, or has more pixels than `most_pixels` or more
            scans than a JPEG needs.
    """
    with _told(most_pixels), Image.open(file, formats=FORMATS) as image:
        scans = _bound(image, most_pixels)
        pixels = image.width * image.height
        image.draft("RGB", (2 * size, 2 * size))  # a large JPEG is decoded smaller, several times faster
        if scans <= 1:  # others are in memory as they are, whatever they are decoded to
            pixels = image.width * image.height
        with memory(pixels):
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_square(image, size, fit))


def as_jpeg(
    file: Path | BinaryIO,
    size: int,
    fit: Fit = "crop",
    most_pixels: int = MOST_PIXELS,
    memory: Memory = nullcontext,
) -> bytes:
    """Return an image as it is stored in a dataset, a JPEG of `(size, size, 3)`: where it is one, its `jpeg.plain`.

    Arguments and errors as in `read`.
    """
    with _told(most_pixels):
        if isinstance(file, Path):
            content = io.BytesIO(_content(file))
        else:
            file.seek(0)
            content = io.BytesIO(file.read())
        with Image.open(content, formats=FORMATS) as image:
            if (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size)) and _upright(image):
                _bound(image, most_pixels)
                with memory(size * size):
                    image.load()  # it can be decoded to its end
                return jpegs.plain(content.getvalue())
    content.seek(0)
    square = Image.fromarray(read(content, size, fit, most_pixels, memory))
    square.save(encoded := io.BytesIO(), "JPEG", quality=QUALITY)
    return encoded.getvalue()


def decode(jpeg: bytes) -> np.ndarray:
    """Return the pixels `(S, S, 3)` uint8 of what `as_jpeg` returned: the same as in `data`."""
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@contextmanager
def _told(most_pixels: int) -> Iterator[None]:
    """Make one kind of error of all that reading may raise."""
    try:
        yield
    except FlowersError:
        raise
    except Image.DecompressionBombError:
        raise FlowersError(f"has more than {most_pixels:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise FlowersError("is no image that Pillow knows") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__  # strerror has no path in it
        raise FlowersError(f"cannot be read: {reason}") from None


def _bound(image: Image.Image, most_pixels: int) -> int:
    """Refuse what takes too long to decode. Return how many scans a JPEG has; zero for others."""
    if image.width * image.height > most_pixels:
        raise FlowersError(f"has {image.width * image.height:,} pixels, more than {most_pixels:,}; make it smaller")
    if image.format not in ("JPEG", "MPO"):
        return 0
    image.fp.seek(0)
    scans = sum(1 for _ in islice(jpegs.scans(image.fp.read()), MOST_SCANS + 1))
    if scans > MOST_SCANS:
        raise FlowersError(f"has more than {MOST_SCANS} scans; save it again as a plain JPEG")
    return scans


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise FlowersError("is no file; remove it")
    return path.read_bytes()


def _upright(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP:
        deep = np.asarray(image, np.float32) * (255.0 / DEEP[image.mode])
        image = Image.fromarray(np.clip(np.round(deep), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    width, height = image.size
    if width == height == size:
        return _rgb(image)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resized(image, (size, size), (left, top, left + side, top + side))
    inside = round(size * min(1, width / height)), round(size * min(1, height / width))
    return ImageOps.pad(_resized(image, inside, (0, 0, width, height)), (size, size), color=GREY)


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Return what lies in a box, in RGB and another size; a few rows at a time, so that the whole is there only once.

    The same pixels as of `Image.resize`, which too makes all rows narrow first and then fewer.
    """
    if 0 in size:
        raise FlowersError("is too long and narrow; cut it")
    left, right = _seen(box[0], box[2], size[0], image.width)
    top, bottom = _seen(box[1], box[3], size[1], image.height)
    rows = max(1, BLOCK // (right - left))
    narrow = Image.new("RGB", (size[0], bottom - top))
    for row in range(top, bottom, rows):
        block = _rgb(image.crop((left, row, right, min(row + rows, bottom))))
        across = (box[0] - left, 0, box[2] - left, block.height)
        narrow.paste(block.resize((size[0], block.height), Image.Resampling.LANCZOS, across), (0, row - top))
    return narrow.resize(size, Image.Resampling.LANCZOS, (0, box[1] - top, size[0], box[3] - top))


def _seen(start: float, end: float, size: int, limit: int) -> tuple[int, int]:
    """Return from where to where a filter looks that makes `size` pixels of what lies between."""
    reach = REACH * max(1, (end - start) / size) + 1
    return max(0, math.floor(start - reach)), min(limit, math.ceil(end + reach))


@dataclass(frozen=True)
class Prepared:
    """One photograph as it is stored in a dataset; `error` says why it cannot be.

    Attributes:
        jpeg: `(S, S, 3)`, compressed.
        digest: SHA-256 of its pixels.
        thumbnail: `(32, 32, 3)` uint8, in [0, 255].
        error: what is wrong with the file, empty where nothing is.
    """

    jpeg: bytes = b""
    digest: bytes = bytes(32)
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((32, 32, 3), np.uint8))
    error: str = ""


def prepare(path: Path, image_size: int, fit: Fit) -> Prepared:
    """Return a photograph as a square JPEG, and what tells whether another one shows the same."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Prepared(error="has a name that is not UTF-8; rename it")
    try:
        jpeg = as_jpeg(path, image_size, fit)
    except FlowersError as error:
        return Prepared(error=str(error))
    pixels = decode(jpeg)
    thumbnail = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX))
    return Prepared(jpeg, hashlib.sha256(pixels.tobytes()).digest(), thumbnail)
