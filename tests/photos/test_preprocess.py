"""Values of every depth and colours of every profile, against numbers worked out from the standards; sizes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_photo import SIZE, saved

from flowerlib import data
from flowerlib.config import FlowersError
from flowerlib.photos import photo, preprocess

# To XYZ at D50, as profiles hold it: the primaries of each space, adapted by Bradford's matrix (lindbloom.com).
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
P3 = np.array(
    [[0.5151187, 0.2919778, 0.1571035], [0.2411892, 0.6922441, 0.0665668], [-0.0010505, 0.0418791, 0.7840713]]
)


def profile(to_xyz, gamma, name):
    """Return an ICC profile (version 2) of three primaries and a gamma. Source: ICC.1:2001-04."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    columns = [b"XYZ " + bytes(4) + b"".join(map(fixed, column)) for column in to_xyz.T]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = name.encode() + b"\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    described += bytes(-len(described) % 4)
    white = b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    tags = [(b"desc", described), (b"wtpt", white), (b"cprt", b"text" + bytes(4) + b"none\0" + bytes(3))]
    tags += list(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True))
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags:
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content
    header = bytes(8) + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += fixed(0.9642) + fixed(1.0) + fixed(0.8249) + bytes(48)
    header = struct.pack(">I", start + len(data)) + header[4:]
    assert len(header) == 128
    return header + table + data


def to_srgb(colour, to_xyz, gamma):
    """Work out what a colour is in sRGB. Source: IEC 61966-2-1."""
    linear = np.linalg.inv(SRGB) @ to_xyz @ (np.array(colour) / 255) ** gamma
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("to_xyz", "name"), [(ADOBE, "Adobe RGB (1998)"), (P3, "Display P3")])
@pytest.mark.parametrize("colour", [(200, 60, 90), (40, 120, 60), (128, 128, 128), (250, 240, 20), (255, 255, 255)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_colour_profile_becomes_srgb(to_xyz, name, colour, format):
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    for size in ((SIZE, SIZE), (150, 100)):
        file = saved(Image.new("RGB", size, colour), format, icc_profile=profile(to_xyz, 2.2, name), **options)
        for decoded in (photo.read(file, SIZE), photo.decode(photo.as_jpeg(file, SIZE))):
            assert abs(decoded - to_srgb(colour, to_xyz, 2.2)).max() <= 4
    assert format != "JPEG" or abs(to_srgb((200, 60, 90), to_xyz, 2.2) - (200, 60, 90)).max() > 8  # it does matter


def test_an_srgb_profile_a_damaged_one_and_one_for_other_channels_change_nothing():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    adobe = profile(ADOBE, 2.2, "Adobe RGB (1998)")
    for icc in (srgb, adobe[:100], adobe.replace(b"RGB XYZ ", b"CMYKXYZ ")):
        plain = saved(noise, "JPEG").getvalue()
        assert photo.as_jpeg(saved(noise, "JPEG", icc_profile=icc), SIZE) == plain
        np.testing.assert_array_equal(photo.read(saved(noise, "PNG", icc_profile=icc), SIZE), np.asarray(noise))


def test_transparency_is_white_whatever_the_profile():
    image = Image.new("RGBA", (80, 80), (200, 0, 0, 0))
    file = saved(image, "PNG", icc_profile=profile(P3, 2.2, "Display P3"))
    assert abs(photo.read(file, SIZE).astype(int) - 255).max() <= 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([0.0, 0.5, 1.0], np.float32), (0, 128, 255)),  # floats from 0 to 1
        (np.array([0.0, 100.0, 255.0], np.float32), (0, 100, 255)),  # bytes as floats
        (np.array([0.0, 257.0 * 100, 65535.0], np.float32), (0, 100, 255)),  # 16 bits as floats
        (np.array([-1.0, 0.0, 1.0], np.float32), (0, 128, 255)),  # a range of its own
        (np.array([np.nan, 0.5, np.inf], np.float32), (0, 128, 0)),
        (np.array([0, 2048, 4095], np.uint16), (0, 128, 255)),  # 12 bits
        (np.array([0, 100, 255], np.uint16), (0, 100, 255)),  # 8 bits in 16
        (np.array([0, 25700, 65535], np.uint16), (0, 100, 255)),
        (np.array([-7, -7, -7], np.float32), (0, 0, 0)),
    ],
)
def test_deep_tiffs_are_scaled_by_their_own_range(values, wanted):
    columns = np.repeat(values, 100)[np.newaxis].repeat(300, axis=0)
    decoded = photo.read(saved(Image.fromarray(columns), "TIFF"), 300)
    assert abs(decoded[150, [50, 150, 250], 0].astype(int) - wanted).max() <= 1


def test_a_deep_png_means_all_its_bits():
    values = np.full((80, 80), 4095, np.uint16)
    assert abs(photo.read(saved(Image.fromarray(values), "PNG"), SIZE).astype(int) - 16).max() <= 1


def test_a_colour_tiff_of_16_bits_that_uses_12_is_refused():
    """Pillow keeps the upper eight bits: 4,095 of 65,535 would be 15 of 255."""
    file = saved(Image.new("RGB", (80, 80), (15, 10, 5)), "TIFF")
    content = file.getvalue()
    at = content.index(struct.pack("<HHI", 258, 3, 3))
    [where] = struct.unpack_from("<I", content, at + 8)
    content = content[:where] + struct.pack("<HHH", 16, 16, 16) + content[where + 6 :]
    with pytest.raises(FlowersError, match="has samples of 16 bits that use at most 12"):
        photo.read(io.BytesIO(content + bytes(80 * 80 * 3)), SIZE)


@pytest.mark.parametrize("side", [24, 48, 192, 224, 331, 512])
@pytest.mark.parametrize("size", [24, 150, 192, 224, 300, 331, 512])
def test_a_square_gets_another_side_as_in_training_to_the_last_bit(side, size):
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    np.testing.assert_array_equal(preprocess.resize(noise, size), np.asarray(data.resize(noise[None], size))[0])
