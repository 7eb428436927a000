"""What a JPEG says besides its picture, such as where and by whom it was taken; and how to be rid of it."""

import re
from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"
JFIF, ADOBE, COMMENT, SCAN = 0xE0, 0xEE, 0xFE, 0xDA
# Not what stands within a scan (a stuffed zero, a restart) or alone (the start, 01), nor a byte of filling.
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def plain(jpeg: bytes) -> bytes:
    """Return a JPEG without what a camera, a telephone or a program told of it: the picture, bit for bit, and no more.

    Gone are all comments and application segments (EXIF, XMP, IPTC, colour profiles, thumbnails) but for those that say
    how its colours are coded, JFIF and Adobe, and whatever follows its end. Source: ITU T.81, annex B.
    """
    kept = [START]
    for kind, said, bits in _segments(jpeg):
        if (said := _wanted(kind, said)) is not None:
            kept += [bytes([0xFF, kind]), (len(said) + 2).to_bytes(2), said, bits]
    return b"".join([*kept, END])


def scans(jpeg: bytes) -> Iterator[bytes]:
    """Yield the bits of each scan. Where there is one, a decoder holds some lines at a time; of several, the whole."""
    return (bits for kind, _, bits in _segments(jpeg) if kind == SCAN)


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield of each segment its kind, what it says, and for a scan the bits that follow; pass over what is neither."""
    marker = MARKER.search(jpeg, len(START))
    while marker and marker[0] != END:
        start = marker.end() + 2
        end = marker.end() + int.from_bytes(jpeg[marker.end() : start])
        following = MARKER.search(jpeg, end)
        bits = jpeg[end : following.start() if following else None] if marker[1][0] == SCAN else b""
        yield marker[1][0], jpeg[start:end], bits
        marker = following


def _wanted(kind: int, said: bytes) -> bytes | None:
    """Return what is kept of a segment: of JFIF all but its thumbnail."""
    if kind == JFIF:
        return said[:12] + b"\0\0" if said.startswith(b"JFIF\0") and len(said) >= 14 else None
    if kind == ADOBE:
        return said[:12] if said.startswith(b"Adobe") and len(said) >= 12 else None
    return None if JFIF <= kind <= 0xEF or kind == COMMENT else said
