"""Which files are pictures: the formats that Pillow reads, with its plug-ins for HEIC and JPEG XL where installed."""

import os
import warnings
from pathlib import Path

from PIL import Image

from flowerlib.photos import jxl
from flowerlib.photos.preprocess import FORMATS, INSTALLED, PLUGINS, RAW_MESSAGE

warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, and about sizes below the limit
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", *jxl.SIGNATURES)
_RAW_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")  # that are no TIFF
_RAW_SUFFIXES = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srf .srw .x3f"
)


_UNFINISHED = (".part", ".crdownload", ".partial", ".download")  # what browsers call a download that is under way
READABLE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
SUFFIXES = READABLE_SUFFIXES | {".heic", ".heif", ".hif", ".jxl", ".avif", *_RAW_SUFFIXES.split()}


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its suffix, or by its first bytes; whether it can be read, is not asked."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() in _UNFINISHED:
        return False
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
    for name, is_it in (("HEIC", _is_heic(head)), ("JPEG XL", head.startswith(jxl.SIGNATURES))):
        if is_it and not INSTALLED[name]:
            return f"is {name}, for which {PLUGINS[name][0]} is missing: pip install '.[photos]' in flowerlib's folder"
    if head.startswith(_RAW_SIGNATURES) or head[4:12] == b"ftypcrx ":
        return RAW_MESSAGE
    if not head:
        return "is empty"
    if head.startswith(b"PK"):
        return "is a zip file; unpack it, and name the folder"
    if head.lstrip().startswith(b"<"):
        return "is a web page or other markup, and no image"
    return "is no image that Pillow knows"


# Larger blocks than Pillow's own of 16 MB, which each thread's heap would keep after an image has freed them.
if "PILLOW_BLOCK_SIZE" not in os.environ:
    Image.core.set_block_size(1 << 26)
