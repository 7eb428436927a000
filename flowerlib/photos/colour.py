"""Turn the values of any picture into sRGB: samples of any depth, transparency, colour profiles."""

import io
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from flowerlib.config import FlowersError

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # of Pillow: one channel of more than 8 bits
FULL_RANGES = (1.0, 255.0, 1023.0, 4095.0, 65535.0)  # of floats; of 8, 10, 12 and 16 bits
MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space -> Pillow's mode
BITS_PER_SAMPLE = 258  # a TIFF tag


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
        FlowersError: its samples have fewer bits than the file says, and would all be black.
    """
    _require_full_samples(image)
    black, white = _range(image) if image.mode in DEEP_MODES else (0.0, 255.0)
    return Conversion(black, white, *_profile_transform(image))


def has_other_profile(image: Image.Image) -> bool:
    """Return whether a picture has a colour profile, and that is not sRGB."""
    return _profile_transform(image)[1] is not None


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


def _finite(image: Image.Image) -> np.ndarray:
    """The values of a deep image; 0 for those that are no numbers, or infinite."""
    return np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _require_full_samples(image: Image.Image) -> None:
    """Refuse a TIFF of several channels of 16 bits that uses at most 12: Pillow keeps the upper 8 of them."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode in DEEP_MODES:
        return
    if max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) == 16 and np.max(image.getextrema()) < 16:
        raise FlowersError("has samples of 16 bits that use at most 12: it would be black; scale them to all 16")


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
