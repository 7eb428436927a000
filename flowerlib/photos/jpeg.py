"""Strip the metadata of a JPEG, such as where and by whom the photograph was taken, without decoding it."""

import re
from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"
JFIF, ADOBE, LAST_APPLICATION, COMMENT, SCAN = 0xE0, 0xEE, 0xEF, 0xFE, 0xDA  # kinds of segments
# A marker that begins a segment: not one within a scan (a stuffed zero, a restart), not one that stands alone (the
# start, 01), and not a fill byte.
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def strip_metadata(jpeg: bytes) -> bytes:
    """Return a JPEG with the same pixels, bit for bit, and without its metadata.

    Removes all comments and application segments (EXIF, XMP, IPTC, colour profiles, thumbnails) but for JFIF's and
    Adobe's, which say how the colours are coded, and whatever follows the end. Source: ITU T.81, annex B.
    """
    parts = [START]
    for kind, payload, scan in _segments(jpeg):
        if (kept := _without_metadata(kind, payload)) is not None:
            parts += [bytes([0xFF, kind]), (len(kept) + 2).to_bytes(2), kept, scan]
    return b"".join([*parts, END])


def scans(jpeg: bytes) -> Iterator[bytes]:
    """Yield the entropy-coded data of each scan.

    A decoder holds a few lines of an image with one scan at a time, but the whole of an image with several.
    """
    return (scan for kind, _, scan in _segments(jpeg) if kind == SCAN)


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the kind and the payload of each segment, and the data that follow where it is a scan; skip the rest."""
    marker = MARKER.search(jpeg, len(START))
    while marker and marker[0] != END:
        start = marker.end() + 2
        end = marker.end() + int.from_bytes(jpeg[marker.end() : start])
        following = MARKER.search(jpeg, end)
        scan = jpeg[end : following.start() if following else None] if marker[1][0] == SCAN else b""
        yield marker[1][0], jpeg[start:end], scan
        marker = following


def _without_metadata(kind: int, payload: bytes) -> bytes | None:
    """Return what remains of a segment, None if nothing does; JFIF loses its thumbnail."""
    if kind == JFIF:
        return payload[:12] + b"\0\0" if payload.startswith(b"JFIF\0") and len(payload) >= 14 else None
    if kind == ADOBE:
        return payload[:12] if payload.startswith(b"Adobe") and len(payload) >= 12 else None
    return None if JFIF <= kind <= LAST_APPLICATION or kind == COMMENT else payload
