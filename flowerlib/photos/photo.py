"""Decode any photograph that Pillow reads into the square of pixels that the networks take."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from flowerlib.config import FlowersError
from flowerlib.photos import formats, jxl, preprocess
from flowerlib.photos import jpeg as jpegs

Fit = Literal["crop", "pad"]
Memory = Callable[[int], AbstractContextManager[object]]  # a number of pixels -> reserves the memory to decode them
MAX_PIXELS = 178_956_970  # Pillow's own limit, beyond which it suspects a decompression bomb
# How many times the memory of other formats a decoder takes: peak of a process, 4096 x 4096 px, by 4 bytes; rounded.
DECODER_MEMORY = {"AVIF": 3, "HEIF": 2, "JPEG2000": 6, "JXL": 3, "PSD": 2, "TIFF": 2, "WEBP": 4}
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF tags
MAX_SCANS = 100  # of a JPEG: ten are usual; each further one costs 14 bytes, and a pass over the whole image to decode


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
        memory: a context manager that is entered with the number of pixels while these are decoded, times
            `DECODER_MEMORY`. They take four bytes each, eight where EXIF turns them.

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
    with _opened(file, max_pixels, memory) as (image, rest):
        num_scans = _require_decodable(image, max_pixels)
        num_pixels = _num_pixels(image)
        preprocess.reduce(image, size)
        if num_scans <= 1:  # with more, the decoder holds the image at full size all the same
            num_pixels = _num_pixels(image)
        with rest(num_pixels * DECODER_MEMORY.get(image.format or "", 1)):
            preprocess.turn_upright(image)
            return np.asarray(preprocess.square(image, size, fit))


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
        if encoded.startswith(jpegs.START):
            with _opened(io.BytesIO(encoded), max_pixels, memory) as (image, _):
                if preprocess.is_stored(image, size):
                    _require_decodable(image, max_pixels)
                    with memory(size * size):
                        image.load()  # raises where the file is truncated
                    return jpegs.strip_metadata(encoded)
        square = Image.fromarray(_read(io.BytesIO(encoded), size, fit, max_pixels, memory))
    return preprocess.encode(square)


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
    except preprocess.PhotographError as error:
        raise FlowersError(str(error)) from None
    except Image.DecompressionBombError:
        raise FlowersError(f"has more than {max_pixels:,} pixels; make it smaller") from None
    except Exception as error:  # a damaged file may raise anything in Pillow's readers
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__  # strerror has no path in it
        raise FlowersError(f"cannot be read: {reason}") from None


@contextmanager
def _opened(file: BinaryIO, max_pixels: int, memory: Memory) -> Iterator[tuple[Image.Image, Memory]]:
    """Open an image; yield it with what reserves the rest of its memory: JPEG XL is decoded as it is opened."""
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    first: AbstractContextManager[object] = nullcontext()
    rest = memory
    if head.startswith(jxl.SIGNATURES) and preprocess.INSTALLED["JPEG XL"]:
        num_pixels = jxl.num_pixels(file.read())
        file.seek(0)
        _require_at_most(num_pixels, max_pixels)
        first, rest = memory(num_pixels * DECODER_MEMORY["JXL"]), nullcontext
    with first:
        try:
            image = preprocess.open_image(file)
        except UnidentifiedImageError:
            raise FlowersError(formats.unknown_format(head)) from None
        with image:
            yield image, rest


def _num_pixels(image: Image.Image) -> int:
    """Return how many pixels a decoder holds at once: a tile of a TIFF may be larger than the image."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return max(image.width * image.height, tags.get(TILE_WIDTH, 0) * tags.get(TILE_LENGTH, 0))


def _require_at_most(num_pixels: int, max_pixels: int) -> None:
    if num_pixels > max_pixels:
        raise FlowersError(f"has {num_pixels:,} pixels, more than {max_pixels:,}; make it smaller")


def _require_decodable(image: Image.Image, max_pixels: int) -> int:
    """Refuse an image that takes too long to decode; return the number of a JPEG's scans, 0 for other formats."""
    _require_at_most(_num_pixels(image), max_pixels)
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
