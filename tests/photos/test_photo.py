"""Photographs of every kind, against colours and places that the test has chosen."""

import io
import os
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from flowerlib.config import FlowersError
from flowerlib.photos import photo, preprocess

RED, SIZE = (200, 40, 60), 64


def plain(size=(80, 80), colour=RED, mode="RGB"):
    return Image.new("RGB", size, colour).convert(mode)


def saved(image, format, **options):
    image.save(buffer := io.BytesIO(), format, **options)
    buffer.seek(0)
    return buffer


def halves(size=(100, 60)):
    """Left black, right white, a red stripe along the top."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, size[0] // 2 :] = 255
    pixels[: size[1] // 4] = RED
    return Image.fromarray(pixels)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000"])
def test_every_format_gives_its_colour(format):
    decoded = photo.read(saved(plain(), format), SIZE)
    assert (decoded.shape, decoded.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert abs(decoded.astype(int) - RED).max() <= 3


@pytest.mark.parametrize(
    ("image", "format", "colour"),
    [
        (Image.new("CMYK", (80, 80), (0, 204, 153, 51)), "JPEG", (204, 41, 82)),  # 255 (1 - c) (1 - k)
        (Image.new("CMYK", (80, 80), (0, 204, 153, 51)), "TIFF", (204, 41, 82)),
        (Image.new("L", (80, 80), 120), "JPEG", (120, 120, 120)),
        (Image.new("1", (80, 80), 1), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((80, 80), 30 * 257, np.uint16)), "PNG", (30, 30, 30)),
        (Image.fromarray(np.full((80, 80), 30 * 257, np.uint16)), "TIFF", (30, 30, 30)),
        (Image.new("RGBA", (80, 80), (200, 0, 0, 0)), "PNG", (255, 255, 255)),  # all transparent, on white
        (Image.new("RGBA", (80, 80), (200, 0, 100, 102)), "PNG", (233, 153, 193)),  # two fifths
        (Image.new("LA", (80, 80), (100, 102)), "PNG", (193, 193, 193)),
        (plain().quantize(4), "PNG", RED),
        (Image.new("YCbCr", (80, 80), (120, 128, 128)), "JPEG", (120, 120, 120)),
    ],
)
def test_every_colour_space_becomes_rgb(image, format, colour):
    decoded = photo.read(saved(image, format), SIZE)
    assert abs(decoded.astype(int) - colour).max() <= 4


def test_a_transparent_colour_of_a_palette_becomes_white():
    image = Image.new("P", (80, 80), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert (photo.read(saved(image, "PNG", transparency=1), SIZE) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_as_exif_says(orientation):
    stored = {1: (), 2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (2,), 7: (6,), 8: (4,)}[orientation]
    upright = halves((80, 80))
    turned = upright
    for operation in stored:
        turned = turned.transpose(Image.Transpose(operation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = photo.read(saved(turned, "PNG", exif=exif), 80)
    np.testing.assert_array_equal(decoded, np.asarray(upright))


def test_crop_keeps_the_middle_square_and_pad_all_of_it():
    image = halves((120, 60))  # the middle square begins at 30
    crop = photo.read(saved(image, "PNG"), 60, "crop")
    np.testing.assert_array_equal(crop, np.asarray(image)[:, 30:90])
    pad = photo.read(saved(image, "PNG"), 120, "pad")
    np.testing.assert_array_equal(pad[30:90], np.asarray(image))
    assert (pad[:30] == preprocess.PADDING_COLOUR).all()
    assert (pad[90:] == preprocess.PADDING_COLOUR).all()


def test_an_image_of_the_right_size_is_left_as_it_is():
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(photo.read(saved(Image.fromarray(noise), "PNG"), SIZE), noise)


def test_a_large_jpeg_gives_what_a_careful_reduction_gives():
    y, x = np.mgrid[:1600, :1600] / 1600
    smooth = np.stack([127 + 120 * np.sin(9 * x), 127 + 120 * np.cos(7 * y), 255 * x * y], -1).astype(np.uint8)
    decoded = photo.read(saved(Image.fromarray(smooth), "JPEG", quality=95), 100)
    careful = Image.fromarray(smooth).resize((100, 100), Image.Resampling.LANCZOS)
    assert abs(decoded.astype(int) - np.asarray(careful)).max() <= 6


def test_of_a_moving_image_the_first_frame_is_taken():
    frames = [plain(), plain(colour=(0, 0, 255))]
    moving = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert abs(photo.read(moving, SIZE).astype(int) - RED).max() <= 3


def within_iptc(content):
    """An IPTC file that says it is of 64 x 64 px; Pillow opens what is in it whatever it is."""
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x40"), (3, 30, b"\0\x40"), (3, 120, b"\5"), (8, 10, content)]
    return b"".join(struct.pack(">BBBH", 28, *field[:2], len(field[2])) + field[2] for field in fields) + bytes(8)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"a rose is a rose", "is no image that Pillow knows"),
    "truncated JPEG": (saved(halves(), "JPEG").getvalue()[:-200], "cannot be read: "),
    "truncated PNG": (saved(halves(), "PNG").getvalue()[:-60], "cannot be read: "),
    "JPEG without data": (saved(halves(), "JPEG").getvalue()[:300], "cannot be read: "),
    "EPS, for which Pillow starts Ghostscript": (EPS, "is no image that Pillow knows"),
    "EPS within IPTC": (within_iptc(EPS), "is no image that Pillow knows"),
    "PNG within IPTC": (within_iptc(saved(plain(), "PNG").getvalue()), "is no image that Pillow knows"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is a web page or other markup"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_told(name):
    content, reason = BROKEN[name]
    with pytest.raises(FlowersError, match=reason):
        photo.read(io.BytesIO(content), SIZE)


def test_metadata_never_stop_pixels():
    """Damaged EXIF, and text that is longer than what Pillow takes, before and after the pixels."""
    pixels = np.asarray(halves((SIZE, SIZE)))
    damaged = saved(halves((SIZE, SIZE)), "PNG", exif=b"Exif\0\0MM\0*").getvalue()
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (2 << 20), zip=True)
    info.add_itxt("Title", "y" * (2 << 20), zip=True)
    long = saved(halves((SIZE, SIZE)), "PNG", pnginfo=info).getvalue()
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(long)).load()
    text = long[long.index(b"zTXt") - 4 : long.index(b"IDAT") - 4]
    plain = saved(halves((SIZE, SIZE)), "PNG").getvalue()
    late = plain.replace(plain[-12:], text + plain[-12:])
    for content in (damaged, long, late):
        np.testing.assert_array_equal(photo.read(io.BytesIO(content), SIZE), pixels)
        photo.as_jpeg(io.BytesIO(content), SIZE)
    jpeg = saved(halves((SIZE, SIZE)), "JPEG", exif=b"Exif\0\0MM\0*").getvalue()
    assert photo.as_jpeg(io.BytesIO(jpeg), SIZE) == saved(halves((SIZE, SIZE)), "JPEG").getvalue()


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(FlowersError, match="has more than 178,956,970 pixels"):
        photo.read(bomb, SIZE)


def test_files_that_cannot_be_opened_are_told(tmp_path):
    with pytest.raises(FlowersError, match="cannot be read: No such file"):
        photo.read(tmp_path / "nowhere.jpg", SIZE)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(FlowersError, match="cannot be read: Is a directory"):
        photo.read(tmp_path / "folder.jpg", SIZE)
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    with pytest.raises(FlowersError, match="cannot be read: Too many levels of symbolic links"):
        photo.read(tmp_path / "loop.jpg", SIZE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}])
def test_a_jpeg_of_the_right_size_keeps_its_pixels_and_forgets_who_took_it(options, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Jane Doe"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    told = saved(noise, "JPEG", exif=exif, comment="Jane Doe", xmp=b"<Jane Doe/>", **options)
    assert told.getvalue().count(b"Jane Doe") == 3
    stored = photo.as_jpeg(io.BytesIO(told.getvalue() + b"Jane Doe"), SIZE)
    assert stored == saved(noise, "JPEG", **options).getvalue()
    assert photo.as_jpeg(io.BytesIO(stored), SIZE) == stored
    np.testing.assert_array_equal(photo.decode(stored), np.asarray(Image.open(told)))


def test_a_jpeg_of_more_scans_than_it_needs_is_refused_before_it_is_decoded():
    """A file of 32 MB could hold two million: days of decoding."""
    content = saved(halves((200, 200)), "JPEG", progressive=True).getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    for size in (SIZE, 200):
        with pytest.raises(FlowersError, match="has more than 100 scans"):
            photo.as_jpeg(io.BytesIO(content[:-2] + 200 * last + content[-2:]), size)
        photo.as_jpeg(io.BytesIO(content[:-2] + 50 * last + content[-2:]), size)


def test_a_jpeg_of_the_right_size_is_stored_byte_for_byte_and_another_one_is_not(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    right = saved(noise, "JPEG", quality=60).getvalue()
    (tmp_path / "right.jpg").write_bytes(right)
    assert photo.as_jpeg(tmp_path / "right.jpg", SIZE) == right
    np.testing.assert_array_equal(photo.decode(right), np.asarray(Image.open(io.BytesIO(right))))
    exif = Image.Exif()
    exif[0x0112] = 3
    image = halves((SIZE, SIZE))
    for other in (saved(image, "JPEG", exif=exif), saved(image.convert("L"), "JPEG"), saved(image, "PNG")):
        content = other.getvalue()
        stored = photo.as_jpeg(other, SIZE)
        assert stored != content
        difference = photo.decode(stored).astype(int) - photo.read(io.BytesIO(content), SIZE)
        assert abs(difference).mean() < 3
    with pytest.raises(FlowersError, match="cannot be read: "):
        photo.as_jpeg(io.BytesIO(right[:-100]), SIZE)


MODES = {
    "RGB": ("PNG", np.uint8, 3),
    "RGBA": ("PNG", np.uint8, 4),
    "16 bits": ("PNG", np.uint16, 0),
    "float": ("TIFF", np.float32, 0),
}


def noise_of(name, width, height):
    _, kind, channels = MODES[name]
    noise = np.random.default_rng(0).random((height, width, channels) if channels else (height, width))
    return Image.fromarray((noise * (1 if kind is np.float32 else np.iinfo(kind).max)).astype(kind))


def as_a_whole(name, image):
    """What `read` says of colours, done to all pixels at once."""
    if name == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    white = {"16 bits": 65535, "float": 1}.get(name, 255)
    return Image.fromarray(np.round(np.asarray(image, np.float64) * 255 / white).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("size", [(1500, 901), (901, 1500), (700, 20), (1400, 1400)])
@pytest.mark.parametrize("name", MODES)
def test_what_is_converted_block_by_block_has_no_seams(name, size):
    image = noise_of(name, *size)
    whole = as_a_whole(name, image)
    for fit, careful in (("crop", ImageOps.fit), ("pad", ImageOps.pad)):
        colour = {"color": preprocess.PADDING_COLOUR} if fit == "pad" else {}
        wanted = careful(whole, (SIZE, SIZE), Image.Resampling.LANCZOS, **colour)
        decoded = photo.read(saved(image, MODES[name][0]), SIZE, fit)
        np.testing.assert_array_equal(decoded, np.asarray(wanted))


PEAK = """
import re, sys
from pathlib import Path
from flowerlib.photos import photo, preprocess

def peak():
    return int(re.search("VmHWM: *(.*) kB", Path("/proc/self/status").read_text().replace("\\t", " "))[1]) * 1024

before = peak()
photo.read(Path(sys.argv[1]), 64)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("name", "bytes_a_pixel"), [("RGB", 4), ("RGBA", 4), ("16 bits", 2), ("float", 4)])
def test_an_image_is_in_memory_once(name, bytes_a_pixel, tmp_path):
    format, kind, channels = MODES[name]
    black = np.zeros((4000, 4000, channels) if channels else (4000, 4000), kind)
    (tmp_path / "image").write_bytes(saved(Image.fromarray(black), format).getvalue())
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "image"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4000 * 4000 * (bytes_a_pixel + 1.5)


def tiff_of_one_tile(side, tile):
    """A TIFF in RGB whose only tile is larger than the image."""
    packed = zlib.compress(bytes(RED) * tile * tile)
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 2), (277, 3, 3), (322, 4, tile)]
    tags += [(323, 4, tile), (324, 4, 14 + 12 * 10), (325, 4, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return io.BytesIO(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed)


@pytest.mark.parametrize(
    ("file", "pixels"),
    [
        (saved(plain((300, 200)), "TIFF"), 2 * 60_000),  # its decoder takes twice the memory of others
        (saved(plain((300, 200)), "PNG"), 60_000),
        (saved(plain((1600, 1200)), "JPEG"), 200 * 150),  # an eighth of each side: at least twice what is asked for
        (saved(plain((1600, 1200)), "JPEG", progressive=True), 1600 * 1200),
        (saved(plain((SIZE, SIZE)), "JPEG"), SIZE * SIZE),
    ],
)
def test_what_decodes_an_image_knows_how_large_it_is_in_memory(file, pixels):
    inside, told = [], []

    @contextmanager
    def memory(count):
        inside.append(count)
        yield
        told.append(inside.pop())

    assert photo.as_jpeg(file, SIZE, memory=memory)
    assert told == [pixels]
    with pytest.raises(FlowersError, match="cannot be read"):
        photo.as_jpeg(io.BytesIO(file.getvalue()[:-60]), SIZE, memory=memory)


def test_a_tile_that_is_larger_than_its_image_counts_as_a_whole():
    told = []
    assert photo.as_jpeg(tiff_of_one_tile(SIZE, 1024), SIZE, memory=lambda count: nullcontext(told.append(count)))
    assert told == [2 * 1024 * 1024]
    with pytest.raises(FlowersError, match="has 1,048,576 pixels, more than 1,000,000"):
        photo.read(tiff_of_one_tile(SIZE, 1024), SIZE, max_pixels=1_000_000)


def test_what_is_too_narrow_for_a_line_of_the_square_is_told():
    with pytest.raises(FlowersError, match="is too long and narrow"):
        photo.read(saved(plain((1000, 2)), "PNG"), SIZE, "pad")
