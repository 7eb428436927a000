"""Make of a photograph what a model of flowerlib takes, and of its outputs the answer. Needs Pillow and NumPy only.

flowerlib reads its photographs with this file, and writes a copy beside every model that it exports; so both get the
same pixels, where the versions of Pillow are the same. Plug-ins for HEIC (`pillow-heif`) and JPEG XL
(`pillow-jxl-plugin`) are used where installed.

    views = preprocess("rose.jpg")  # of a copy in the folder of `preprocessing.json`
    probabilities = combine(run_the_model(views))
"""

import io
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin

PLUGINS = {"HEIC": ("pillow_heif", "register_heif_opener"), "JPEG XL": ("pillow_jxl", None)}
# Pillow reads thirty more. Some start another program (EPS), hold a picture of any size or format whatever they say of
# themselves (ICO, IPTC, BLP), or are decoded slowly, in Python (FITS).
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "JXL", "JPEG2000", "GIF", "BMP", "PSD", "TGA", "PPM")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")  # kinds of chunks
BITS_PER_SAMPLE, SUBFILE_TYPE, SUB_IFDS, DNG_VERSION = 258, 254, 330, 50706  # TIFF tags
RAW_MESSAGE = "is a camera's RAW file, whose pixels Pillow cannot read; export it as JPEG or TIFF"
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # of Pillow: one channel of more than 8 bits
FULL_RANGES = (1.0, 255.0, 1023.0, 4095.0, 65535.0)  # of floats; of 8, 10, 12 and 16 bits
MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space -> Pillow's mode
JPEG_QUALITY = 95  # beyond it files grow and look no better
PADDING_COLOUR = (127, 127, 127)  # mid-grey: about 0 after the networks' scaling
PIXELS_PER_BLOCK = 1 << 18  # converted and resized at a time
LANCZOS_RADIUS = 3  # of the filter, in pixels of the smaller of the two images


class PhotographError(ValueError):
    """A photograph whose pixels cannot be told."""


def preprocess(file: str | Path | BinaryIO, folder: str | Path = Path(__file__).parent) -> np.ndarray:
    """Return a photograph and its mirror image as the model takes them, `(2, S, S, 3)` float32 in [0, 255], RGB.

    `combine` makes one answer of the model's outputs for both.

    Args:
        file: a path, or an open file.
        folder: that of `preprocessing.json`.
    """
    settings = json.loads(Path(folder, "preprocessing.json").read_text("utf-8"))
    side = settings["stored_size"]
    content = Path(file).read_bytes() if isinstance(file, str | Path) else file.read()
    with open_image(io.BytesIO(content)) as image:
        if is_stored(image, side):
            pixels = np.asarray(image)
        else:
            reduce(image, side)
            turn_upright(image)
            pixels = np.asarray(Image.open(io.BytesIO(encode(square(image, side, settings["fit"])))))
    pixels = resize(pixels, settings["image_size"]).astype(np.float32)
    return np.stack([pixels, pixels[:, ::-1]])


def combine(outputs: np.ndarray, folder: str | Path = Path(__file__).parent) -> np.ndarray:
    """Return the probabilities of a photograph, `(num_classes,)`: what `flowerlib predict` tells.

    The mean over the views, calibrated by temperature scaling: raised to `1 / temperature`, divided by its sum.

    Args:
        outputs: of the model for the views, `(views, num_classes)`.
        folder: that of `preprocessing.json`.
    """
    settings = json.loads(Path(folder, "preprocessing.json").read_text("utf-8"))
    mean = np.mean(outputs, axis=0, dtype=np.float64)
    powers = (mean / mean.max()) ** (1 / settings.get("temperature", 1.0))  # models of earlier versions have none
    return powers / powers.sum()


# Open: the formats that photographs have.


def register(module: str, function: str | None) -> bool:
    """Make a plug-in of Pillow known to it; return whether it is installed."""
    try:
        plugin = import_module(module)
    except ImportError:
        return False
    if function:
        getattr(plugin, function)()
    return True


Image.init()
INSTALLED = {name: register(*plugin) for name, plugin in PLUGINS.items()}
FORMATS = [name for name in Image.OPEN if name in PHOTOGRAPHS]


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image, of which nothing is decoded yet.

    Raises:
        PIL.UnidentifiedImageError: Pillow does not know its format.
        PhotographError: it is a camera's RAW file, of which Pillow would decode the small preview.
    """
    head = file.read(16)
    file.seek(0)
    file = io.BytesIO(without_text(file.read())) if head.startswith(PNG_SIGNATURE) else file
    image = Image.open(file, formats=FORMATS)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        is_preview = tags.get(SUBFILE_TYPE, 0) & 1 and SUB_IFDS in tags
        if DNG_VERSION in tags or head[8:10] == b"CR" or is_preview:
            raise PhotographError(RAW_MESSAGE)
    return image


def without_text(content: bytes) -> bytes:
    """Return a PNG without its text, at whose length Pillow stops."""
    return PNG_SIGNATURE + b"".join(chunk for kind, chunk in _chunks(content) if kind not in PNG_TEXT)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the bytes of each chunk; what is left where a length cannot be, as one of its own."""
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        end = start + 12 + length
        yield kind, png[start:end]
        start = end


# Colours: samples of any depth, transparency and colour profiles become sRGB.


@dataclass(frozen=True)
class Conversion:
    """How the values of one picture become sRGB.

    Attributes:
        black: of a mode of more than 8 bits, the value that becomes 0.
        white: likewise, the value that becomes 255.
        mode: of Pillow, which `transform` takes.
        transform: from the picture's colour profile to sRGB; None where there is none, or it is sRGB.
    """

    black: float
    white: float
    mode: str
    transform: ImageCms.ImageCmsTransform | None

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """Convert the picture, or a part of it, to RGB; what is transparent becomes white."""
        if image.mode in DEEP_MODES:
            levels = np.clip((_finite(image) - self.black) / (self.white - self.black), 0, 1)
            image = Image.fromarray(np.round(255 * levels).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if not self.transform:
            return image.convert("RGB")
        converted = ImageCms.applyTransform(image.convert(self.mode), self.transform)
        assert converted is not None  # as it is not asked to change the image in place
        return converted


def conversion(image: Image.Image) -> Conversion:
    """Return how a picture becomes sRGB.

    A damaged colour profile, or one for another number of channels, is passed over.

    Raises:
        PhotographError: its samples have fewer bits than the file says, and would all be black.
    """
    _require_full_samples(image)
    black, white = _range(image) if image.mode in DEEP_MODES else (0.0, 255.0)
    return Conversion(black, white, *_profile_transform(image))


def _finite(image: Image.Image) -> np.ndarray:
    """Return values in float32; 0 where there is none."""
    return np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white. PNG says 16 bits and means them; TIFF may hold fewer, or floats."""
    if image.format != "TIFF" and image.mode != "F":
        return 0.0, FULL_RANGES[-1]
    low, high = cast(tuple[float, float], image.getextrema())
    if not np.isfinite([low, high]).all():
        low, high = float(_finite(image).min()), float(_finite(image).max())
    for full in FULL_RANGES if image.mode == "F" else FULL_RANGES[1:]:
        if low >= 0 and high <= full:
            return 0.0, full
    return low, max(high, low + 1)


def _require_full_samples(image: Image.Image) -> None:
    """Refuse a TIFF of several channels of 16 bits that uses at most 12: Pillow keeps the upper 8 of them."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode in DEEP_MODES:
        return
    if max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) == 16 and np.max(image.getextrema()) < 16:
        raise PhotographError("has samples of 16 bits that use at most 12: it would be black; scale them to all 16")


def _profile_transform(image: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    if not (content := image.info.get("icc_profile")):
        return "RGB", None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        mode = MODE_OF_SPACE[profile.profile.xcolor_space.strip()]
        if "sRGB" in ImageCms.getProfileDescription(profile) or (mode == "CMYK") != (image.mode == "CMYK"):
            return "RGB", None
        return mode, ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError):
        return "RGB", None


# Geometry: upright, a square, of the model's size.


def reduce(image: Image.Image, side: int) -> None:
    """Let Pillow decode a large JPEG at reduced size, several times faster, and still twice `side` at least."""
    image.draft("RGB", (2 * side, 2 * side))


def turn_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF says; not where the EXIF is damaged."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # Pillow's reader of EXIF may raise anything
        image.load()  # raises where the pixels are damaged


def is_stored(image: Image.Image, side: int) -> bool:
    """Return whether an image is a JPEG of `side`, upright and in sRGB: it is not compressed once more."""
    if (image.format, image.mode, image.size) != ("JPEG", "RGB", (side, side)):
        return False
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        orientation = 1
    return orientation == 1 and _profile_transform(image)[1] is None


def encode(image: Image.Image) -> bytes:
    """Return an image as the JPEG that a dataset holds."""
    image.save(jpeg := io.BytesIO(), "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()


def square(image: Image.Image, side: int, fit: str) -> Image.Image:
    """Return the square in the middle of an image (`crop`), or all of it with grey stripes (`pad`), in RGB.

    Raises:
        PhotographError: the image is too narrow for a line of the square.
    """
    to_srgb = conversion(image)
    width, height = image.size
    if width == height == side:
        return to_srgb.to_rgb(image)
    if fit == "crop":
        shorter = min(width, height)
        left, top = (width - shorter) / 2, (height - shorter) / 2
        return _resize(image, to_srgb, (side, side), (left, top, left + shorter, top + shorter))
    inside = round(side * min(1, width / height)), round(side * min(1, height / width))
    whole = _resize(image, to_srgb, inside, (0, 0, width, height))
    return ImageOps.pad(whole, (side, side), color=PADDING_COLOUR)


def _resize(
    image: Image.Image, to_srgb: Conversion, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """Crop to a box, convert to RGB and resize, a few rows at a time, so that only one image is held at full size.

    The pixels are those of `Image.resize`, which also resizes horizontally first and then vertically.
    """
    if 0 in size:
        raise PhotographError("is too long and narrow; crop it")
    left, right = _filter_support(box[0], box[2], size[0], image.width)
    top, bottom = _filter_support(box[1], box[3], size[1], image.height)
    rows = max(1, PIXELS_PER_BLOCK // (right - left))
    narrow = Image.new("RGB", (size[0], bottom - top))
    for row in range(top, bottom, rows):
        block = to_srgb.to_rgb(image.crop((left, row, right, min(row + rows, bottom))))
        across = (box[0] - left, 0, box[2] - left, block.height)
        narrow.paste(block.resize((size[0], block.height), Image.Resampling.LANCZOS, across), (0, row - top))
    return narrow.resize(size, Image.Resampling.LANCZOS, (0, box[1] - top, size[0], box[3] - top))


def _filter_support(start: float, end: float, size: int, limit: int) -> tuple[int, int]:
    """Return the range of source pixels that a filter reads to resize `start` to `end` into `size` pixels."""
    radius = LANCZOS_RADIUS * max(1, (end - start) / size) + 1
    return max(0, math.floor(start - radius)), min(limit, math.ceil(end + radius))


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a square `(S, S, 3)` uint8 with another side: bilinear, antialiased, rounded.

    To the last bit as `tf.image.resize` does in training; it is not Pillow's filter, which rounds in between.
    """
    if len(pixels) == side:
        return pixels
    for _ in "yx":
        pixels = _resize_rows(pixels, side).swapaxes(0, 1)
    return np.rint(pixels).astype(np.uint8)


def _resize_rows(pixels: np.ndarray, count: int) -> np.ndarray:
    """Return `count` rows of pixels `(h, w, 3)`, each the weighted mean of those around its centre; all in float32."""
    half, last_row = np.float32(0.5), len(pixels) - 1
    step = np.float32(1) / (np.float32(count) / np.float32(len(pixels)))
    radius = max(step, np.float32(1))
    centres = (np.arange(count, dtype=np.float32) + half) * step
    first = np.maximum(np.ceil(centres - radius - half), 0)
    last = np.minimum(np.floor(centres + radius - half), last_row)
    sources = first + np.arange((last - first).max() + 1, dtype=np.float32)[:, np.newaxis]
    weights = np.maximum(1 - np.abs((sources + half - centres) * (1 / radius)), 0) * (sources <= last)
    weights *= 1 / weights.sum(axis=0)
    resized = np.zeros((count, *pixels.shape[1:]), np.float32)
    for source, weight in zip(np.minimum(sources, last_row).astype(int), weights, strict=True):
        resized += weight[:, np.newaxis, np.newaxis] * pixels[source]
    return resized
