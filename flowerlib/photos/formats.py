"""Which files are pictures: the formats that Pillow reads, with its plug-ins for HEIC and JPEG XL where installed.

Metadata never stop pixels: what Pillow would stumble over is removed before it reads the file. Camera RAW files are
refused, as Pillow finds only the small preview in them.
"""

import os
import struct
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from PIL import Image, TiffImagePlugin

from flowerlib.config import FlowersError

warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, and about sizes below the limit
Image.init()
PLUGINS = {"HEIC": ("pillow_heif", "register_heif_opener"), "JPEG XL": ("pillow_jxl", None)}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_JXL_SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", *_JXL_SIGNATURES)
_RAW_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")  # that are no TIFF
_RAW_SUFFIXES = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srf .srw .x3f"
)
# Pillow starts another program for EPS, decodes icons before it knows their size, and cannot decode the last five.
_EXCLUDED = ("EPS", "ICNS", "ICO", "CUR", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
DNG_VERSION, SUB_IFDS, SUBFILE_TYPE = 50706, 330, 254  # TIFF tags
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")  # kinds of chunks
RAW_MESSAGE = "is a camera's RAW file, whose pixels Pillow cannot read; export it as JPEG or TIFF"


def _register(module: str, function: str | None) -> bool:
    """Make a plug-in of Pillow known to it; return whether it is installed."""
    try:
        plugin = import_module(module)
    except ImportError:
        return False
    if function:
        getattr(plugin, function)()
    return True


_INSTALLED = {name: _register(*plugin) for name, plugin in PLUGINS.items()}
FORMATS = [name for name in Image.OPEN if name not in _EXCLUDED]
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
SUFFIXES |= {".heic", ".heif", ".hif", ".jxl", ".avif", *_RAW_SUFFIXES.split()}


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its suffix, or by its first bytes; whether it can be read, is not asked."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_SIGNATURES) or head[:4] + head[8:12] == b"RIFFWEBP" or _is_heic(head) or _is_avif(head)


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def _is_avif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")


def unknown_format(head: bytes) -> str:
    """Return what is to be said of a file that Pillow does not know.

    Args:
        head: its first bytes, sixteen at least.
    """
    for name, is_it in (("HEIC", _is_heic(head)), ("JPEG XL", head.startswith(_JXL_SIGNATURES))):
        if is_it and not _INSTALLED[name]:
            return f"is {name}, for which {PLUGINS[name][0]} is missing: pip install '.[photos]' in flowerlib's folder"
    if head.startswith(_RAW_SIGNATURES) or head[4:12] == b"ftypcrx ":
        return RAW_MESSAGE
    return "is no image that Pillow knows"


def require_no_raw(image: Image.Image, head: bytes) -> None:
    """Refuse the TIFF files that cameras write as RAW: their first picture is a preview.

    Raises:
        FlowersError: it is one.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        is_preview = tags.get(SUBFILE_TYPE, 0) & 1 and SUB_IFDS in tags
        if DNG_VERSION in tags or head[8:10] == b"CR" or is_preview:
            raise FlowersError(RAW_MESSAGE)


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


# Larger blocks than Pillow's own of 16 MB, which each thread's heap would keep after an image has freed them.
if "PILLOW_BLOCK_SIZE" not in os.environ:
    Image.core.set_block_size(1 << 26)
