"""Photographs that the tests make, and what a conversion of them left."""

import csv
import io
from collections import Counter

import numpy as np
from PIL import ExifTags, Image

COUNTS = Counter({"aster": 20, "Ölbaum": 10, "daisy": 7})
SIZE = 48


def picture(seed):
    """Return a random image of large, soft spots; no two seeds give near-duplicates."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(spots).resize((72, 60), Image.Resampling.BICUBIC)


def read_listing(out):
    """Return the rows of `files.csv` by id."""
    with open(out / "files.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def read_all_files(out):
    """Return the bytes of every file below a folder by its path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def touch(place, *names):
    """Make empty files, and folders where a name ends in a slash."""
    for name in names:
        if name.endswith("/"):
            (place / name).mkdir(parents=True, exist_ok=True)
        else:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()


def _file(image, format, **options):
    image.save(buffer := io.BytesIO(), format, **options)
    return buffer.getvalue()


def _turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def _deep(kind, highest):
    """Values of more than 8 bits, from 0 to `highest`."""
    values = np.asarray(picture(9).resize((310, 250)).convert("L"), np.float64)
    return Image.fromarray((values / 255 * highest).astype(kind))


def photographs(display_p3, stored):
    """Return files of every kind that people have, by name; of AVIF, HEIC and JPEG XL where Pillow writes them.

    Args:
        display_p3: the colour profile of telephones.
        stored: side of the squares in a dataset, in pixels.
    """
    image = picture(1).resize((320, 240))
    large = picture(2).resize((4000, 3000))
    alpha = Image.merge("RGBA", (*image.split(), picture(3).resize((320, 240)).convert("L")))
    deep = {
        "16 bits.png": _file(_deep(np.uint16, 65535), "PNG"),
        "16 bits.tif": _file(_deep(np.uint16, 65535), "TIFF"),
        "12 bits.tif": _file(_deep(np.uint16, 4095), "TIFF"),
        "32 bits.tif": _file(_deep(np.int32, 100_000), "TIFF"),
        "float.tif": _file(_deep(np.float32, 1), "TIFF"),
        "float of a range of its own.tif": _file(_deep(np.float32, -3), "TIFF"),
        "float with holes.tif": _file(Image.fromarray(np.full((90, 80), np.nan, np.float32)), "TIFF"),
    }
    sizes = {
        "large.jpg": _file(large, "JPEG", quality=90),
        "large, progressive.jpg": _file(large, "JPEG", progressive=True),
        "large, turned.jpg": _file(large, "JPEG", exif=_turned(6), icc_profile=display_p3),
        "large, grey.jpg": _file(large.convert("L"), "JPEG"),
        "large, CMYK.jpg": _file(large.convert("CMYK"), "JPEG"),
        "large.png": _file(large.resize((2000, 1500)), "PNG"),
        "small.jpg": _file(image.resize((192, 192)), "JPEG"),
        "smaller.jpg": _file(image.resize((61, 47)), "JPEG"),
        "tall.jpg": _file(image.resize((97, 611)), "JPEG"),
        "wide.webp": _file(image.resize((1601, 103)), "WEBP"),
        "stored.jpg": _file(image.resize((stored, stored)), "JPEG", quality=80),
        "stored, grey.jpg": _file(image.resize((stored, stored)).convert("L"), "JPEG"),
        "stored, turned.jpg": _file(image.resize((stored, stored)), "JPEG", exif=_turned(8)),
        "stored, Display P3.jpg": _file(image.resize((stored, stored)), "JPEG", icc_profile=display_p3),
        "stored.png": _file(image.resize((stored, stored)), "PNG"),
        "without subsampling.jpg": _file(image, "JPEG", subsampling=0),
    }
    colours = {
        "CMYK.jpg": _file(image.convert("CMYK"), "JPEG"),
        "CMYK.tif": _file(image.convert("CMYK"), "TIFF"),
        "JPEG within.tif": _file(image, "TIFF", compression="jpeg"),
        "grey.jpg": _file(image.convert("L"), "JPEG"),
        "grey with alpha.png": _file(alpha.convert("LA"), "PNG"),
        "palette.png": _file(image.quantize(32), "PNG"),
        "palette with a transparent colour.png": _file(image.quantize(32), "PNG", transparency=3),
        "a transparent colour.png": _file(image.quantize(8).convert("RGB"), "PNG", transparency=(0, 0, 0)),
        "alpha.png": _file(alpha, "PNG"),
        "alpha.webp": _file(alpha, "WEBP", lossless=True),
        "alpha.tif": _file(alpha, "TIFF"),
        "black and white.png": _file(image.convert("1"), "PNG"),
        "Display P3.jpg": _file(image, "JPEG", icc_profile=display_p3),
        "Display P3.png": _file(image, "PNG", icc_profile=display_p3),
        "Display P3 with alpha.png": _file(alpha, "PNG", icc_profile=display_p3),
        "a damaged profile.jpg": _file(image, "JPEG", icc_profile=display_p3[:99]),
    }
    formats = {
        "a.webp": _file(image, "WEBP"),
        "a.gif": _file(image, "GIF", save_all=True, append_images=[picture(5).resize((320, 240))]),
        "a.bmp": _file(image, "BMP"),
        "a.jp2": _file(image, "JPEG2000"),
        "a.mpo": _file(image, "MPO", save_all=True, append_images=[picture(5)]),
        "LZW.tif": _file(image, "TIFF", compression="tiff_lzw"),
    }
    plugins = {"a.avif": "AVIF", "a.heic": "HEIF", "a.jxl": "JXL"}
    formats |= {name: _file(image, kind) for name, kind in plugins.items() if kind in Image.SAVE}
    turned = {f"turned {each}.jpg": _file(image, "JPEG", exif=_turned(each)) for each in range(1, 9)}
    return sizes | colours | deep | formats | turned
