"""Prepare one photograph for a dataset; the processes that do it in parallel import this, and no framework."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from flowerlib.config import FlowersError
from flowerlib.photos import photo
from flowerlib.photos.photo import Fit

THUMBNAIL_SIZE = 32  # what `data.perceptual_hashes` takes


def _empty_thumbnail() -> np.ndarray:
    return np.zeros((THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), np.uint8)


@dataclass(frozen=True)
class Prepared:
    """One photograph as it is stored in a dataset, or the reason why it cannot be.

    Attributes:
        jpeg: `(S, S, 3)`, compressed.
        digest: SHA-256 of its pixels.
        content: SHA-256 of the file.
        thumbnail: `(32, 32, 3)` uint8, in [0, 255].
        error: what is wrong with the file; empty if nothing is.
    """

    jpeg: bytes = b""
    digest: bytes = bytes(32)
    content: bytes = bytes(32)
    thumbnail: np.ndarray = field(default_factory=_empty_thumbnail)
    error: str = ""


def prepare(path: Path, image_size: int, fit: Fit) -> Prepared:
    """Return a photograph as a square JPEG, with the digest and the thumbnail by which duplicates are found."""
    try:
        content = photo.content(path)
        jpeg = photo.as_jpeg(io.BytesIO(content), image_size, fit)
    except FlowersError as error:
        return Prepared(error=str(error))
    pixels = photo.decode(jpeg)
    thumbnail = Image.fromarray(pixels).resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    digests = hashlib.sha256(pixels.tobytes()).digest(), hashlib.sha256(content).digest()
    return Prepared(jpeg, *digests, np.asarray(thumbnail))
