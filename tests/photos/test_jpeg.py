"""JPEGs with a secret in every kind of metadata, against the same JPEGs without."""

import io

import numpy as np
import pytest
from PIL import Image

from flowerlib.photos import jpeg

SECRET = b"52.5163 N 13.3777 E, Jane Doe"
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 1},
    "RGB, which only Adobe's segment tells": {"keep_rgb": True},
}


def encoded(**options):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "JPEG", quality=95, **options)
    return buffer.getvalue()


def segment(kind, payload):
    return bytes([0xFF, kind]) + (len(payload) + 2).to_bytes(2) + payload


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


# Each begins with what its reader looks for, and holds what could be taken for the begin of a scan, or for the end.
METADATA = {
    "EXIF": segment(0xE1, b"Exif\0\0" + SECRET + b"\xff\xda\0\x0c\xff\xd9"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET),
    "colour profile": segment(0xE2, b"ICC_PROFILE\0\1\1" + SECRET),
    "IPTC": segment(0xED, b"Photoshop 3.0\08BIM\4\4" + SECRET),
    "JFXX": segment(0xE0, b"JFXX\0\x10" + SECRET),
    "comment": segment(0xFE, SECRET),
    "not Adobe's": segment(0xEE, b"Adobe" + SECRET[:3]),
    "empty": segment(0xEB, b""),
    "filling": b"\xff\xff\xff" + segment(0xFE, SECRET),
    "between segments": SECRET + segment(0xFE, SECRET),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METADATA)
def test_the_secret_is_gone_and_every_other_byte_is_there(name, kind):
    content = encoded(**KINDS[kind])
    behind = 4 + int.from_bytes(content[4:6])  # the first segment, JFIF's or Adobe's
    table = content.index(b"\xff\xc4")
    for place in (2, behind, table):
        tagged = content[:place] + METADATA[name] + content[place:]
        assert jpeg.strip_metadata(tagged) == content
        assert jpeg.strip_metadata(jpeg.strip_metadata(tagged)) == content
    np.testing.assert_array_equal(pixels(tagged), pixels(content))


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_end_is_gone(kind):
    content = encoded(**KINDS[kind])
    assert jpeg.strip_metadata(content + SECRET) == content
    assert jpeg.strip_metadata(content + content) == content
    assert jpeg.strip_metadata(content[:-2]) == content  # and who forgot the end gets it


def test_between_scans_too_it_is_gone():
    content = encoded(progressive=True)
    second = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    assert jpeg.strip_metadata(content[:second] + METADATA["EXIF"] + content[second:]) == content


def test_a_thumbnail_within_jfif_is_gone():
    content = encoded()
    tagged = content[:2] + segment(0xE0, content[6:18] + b"\3\4" + bytes(36)) + content[20:]
    assert (pixels(tagged) == pixels(content)).all()
    assert jpeg.strip_metadata(tagged) == content


def test_what_adobe_says_more_than_the_colours_is_gone():
    content = encoded(keep_rgb=True)
    assert content[6:11] == b"Adobe"
    assert jpeg.strip_metadata(content[:2] + segment(0xEE, content[6:18] + SECRET) + content[18:]) == content
    assert jpeg.strip_metadata(content) == content


def test_a_scan_may_be_padded_and_holds_zeros_that_are_none():
    content = encoded(restart_marker_blocks=1)
    assert b"\xff\x00" in content
    padded = content[:-2] + b"\xff\xff\xd9"
    assert jpeg.strip_metadata(padded) == padded
    np.testing.assert_array_equal(pixels(padded), pixels(content))


@pytest.mark.parametrize(("kind", "scans"), [("baseline", 1), ("restarts", 1), ("progressive", 10)])
def test_scans_are_counted_as_the_encoder_made_them(kind, scans):
    """Ten: libjpeg's own script for colours."""
    content = encoded(**KINDS[kind], exif=METADATA["EXIF"][4:])
    assert len(list(jpeg.scans(content))) == scans
    assert sum(map(len, jpeg.scans(content))) < len(content)


def test_what_is_damaged_takes_no_longer():
    for damaged in (b"\xff" * 10_000_000, b"\xff\xda" * 1000, b"\xff\xe1\0\0", b"\xff\xe1\xff", b"\xff", b""):
        assert jpeg.strip_metadata(b"\xff\xd8" + damaged).endswith(b"\xff\xd9")
