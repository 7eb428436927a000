"""Formats that Pillow reads with plug-ins, and camera RAW files, whose preview is no photograph."""

import io
import struct

import numpy as np
import pytest
from made_photographs import picture
from PIL import Image

from flowerlib.config import FlowersError
from flowerlib.photos import formats, photo, preprocess

SIZE = 64


@pytest.mark.parametrize(("format", "suffix"), [("HEIF", "heic"), ("JXL", "jxl"), ("AVIF", "avif")])
def test_what_telephones_write_is_read(tmp_path, format, suffix):
    image = picture(3).resize((160, 120))
    image.save(tmp_path / f"a.{suffix}", format, quality=95)
    image.save(tmp_path / "without suffix", format, quality=95)
    wanted = photo.read(io.BytesIO(png(image)), SIZE).astype(int)
    for path in tmp_path.iterdir():
        assert formats.is_picture(path)
        assert abs(photo.read(path, SIZE) - wanted).mean() < 4


def png(image):
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "name"), [("HEIF", "HEIC"), ("JXL", "JPEG XL")])
def test_where_a_plug_in_is_missing_the_line_names_it(monkeypatch, format, name):
    picture(3).save(buffer := io.BytesIO(), format)
    monkeypatch.setitem(preprocess.INSTALLED, name, False)
    monkeypatch.setattr(preprocess, "FORMATS", [each for each in preprocess.FORMATS if each not in ("HEIF", "JXL")])
    with pytest.raises(FlowersError, match=rf"is {name}, for which pillow_\w+ is missing: pip install '.\[photos\]'"):
        photo.read(buffer, SIZE)


def tiff_with(*tags):
    """Return a TIFF of 160 x 120 pixels with further tags (number, kind, count, value) in its first directory."""
    Image.new("RGB", (160, 120), "red").save(buffer := io.BytesIO(), "TIFF")
    content = buffer.getvalue()
    [start] = struct.unpack_from("<I", content, 4)
    [count] = struct.unpack_from("<H", content, start)
    entries = [content[start + 2 + 12 * at : start + 14 + 12 * at] for at in range(count)]
    entries += [struct.pack("<HHII", *tag) for tag in tags]
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


@pytest.mark.parametrize(
    "content",
    [
        tiff_with((50706, 1, 4, 0x00000401)),  # DNG
        tiff_with((254, 4, 1, 1), (330, 4, 1, 8)),  # NEF, ARW: a preview, and where the pixels are
        tiff_with()[:8] + b"CR\x02\0" + tiff_with()[12:],  # CR2
        b"FUJIFILMCCD-RAW 0201" + bytes(40),
        b"IIRO" + bytes(40),
        b"\0\0\0\x18ftypcrx " + bytes(40),
    ],
)
def test_a_cameras_raw_file_is_refused(content):
    with pytest.raises(FlowersError, match="is a camera's RAW file, whose pixels Pillow cannot read"):
        photo.read(io.BytesIO(content), SIZE)


def test_a_tiff_of_several_pages_is_no_raw_file():
    np.testing.assert_array_equal(photo.read(io.BytesIO(tiff_with()), SIZE)[0, 0], (255, 0, 0))
    reduced = tiff_with((330, 4, 1, 8))
    np.testing.assert_array_equal(photo.read(io.BytesIO(reduced), SIZE)[0, 0], (255, 0, 0))


@pytest.mark.parametrize("name", ["a.JPG", "a.nef", "a.heic", "a.webp", "a.tif"])
def test_pictures_are_known_by_their_suffix(tmp_path, name):
    assert formats.is_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.xmp", "a.db", "a.mov", "a.mpg", "a.svg", "a.h5", "a", "a.jpg.part"])
def test_what_is_no_picture_by_name_and_content_is_none(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" if name.endswith("part") else b"nothing")
    assert not formats.is_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"PK\3\4 of files", "is a zip file; unpack it, and name the folder"),
        (b"\n<!DOCTYPE html><title>404</title>", "is a web page or other markup, and no image"),
        (b"what is this", "is no image that Pillow knows"),
    ],
)
def test_what_else_a_file_may_be_is_told(content, told):
    with pytest.raises(FlowersError, match=f"^{told}"):
        photo.read(io.BytesIO(content), SIZE)
