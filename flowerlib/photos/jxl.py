"""The size of a JPEG XL image without decoding it: Pillow's plug-in decodes all of it when it opens a file."""

import struct

SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # of a bare codestream, and of a container
LENGTHS = (9, 13, 18, 30)  # bits that a side may be written with
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # of width to height


def num_pixels(content: bytes) -> int:
    """Return how many pixels a JPEG XL file has. Source: ISO/IEC 18181-1, size header; 18181-2, boxes.

    Raises:
        ValueError: it is no such file, or is cut short.
    """
    start = _codestream(content)
    bits = int.from_bytes(content[start + 2 : start + 12], "little")  # the lowest is the first

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)  # sides that are multiples of 8, up to 256

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(LENGTHS[take(2)]) + 1

    height = side()
    ratio = take(3)
    width = height * RATIOS[ratio][0] // RATIOS[ratio][1] if ratio else side()
    return width * height


def _codestream(content: bytes) -> int:
    """Return where the codestream begins, in a container that of its first box."""
    if content.startswith(SIGNATURES[0]):
        return 0
    at = 0
    while at + 16 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = at + 8
        if length == 1:
            [length], body = struct.unpack_from(">Q", content, body), body + 8
        if kind in (b"jxlc", b"jxlp"):
            return body + (4 if kind == b"jxlp" else 0)  # a part begins with its number
        if length < 8:
            break
        at += length
    raise ValueError("is cut short")
