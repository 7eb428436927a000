"""Unpack zip and tar files of photographs, safely."""

import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from flowerlib.config import FlowersError, atomic_write
from flowerlib.photos.tree import file_name

MAX_EXPANSION = 200  # times the archive's size: photographs do not shrink by as much as one, bombs by thousands
MAX_FILES = 2_000_000


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar archive, and no workbook."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return "[Content_Types].xml" not in archive.namelist()
        except zipfile.BadZipFile:  # to unpack it will tell
            return True
    return tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder that appears whole or not at all; do nothing where it is there.

    Raises:
        FlowersError: a file would lie outside the folder, or is a link; the archive is encrypted, damaged, or grows
            beyond measure; or there is no room for it.
    """
    if folder.exists():
        return
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        try:
            (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, temporary)
        except FlowersError:
            raise
        except Exception as error:  # of a damaged file, the readers of zip, tar, gzip, bzip2 and xz raise many kinds
            raise FlowersError(f"`{archive}` cannot be unpacked: {error or type(error).__name__}") from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        _require_sane(archive, folder, (member.file_size for member in members))
        for member in members:
            name = _name(member)
            if member.flag_bits & 1:
                raise FlowersError(f"`{archive}` is encrypted; unpack it yourself, and name the folder")
            _require_inside(archive, name)
            with opened.open(member) as packed:
                _write(packed, folder / file_name(name), time.mktime((*member.date_time, 0, 0, -1)))


def _name(member: zipfile.ZipInfo) -> str:
    """The name of a member; some programs write UTF-8 without saying so, which Python takes for code page 437."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.orig_filename.encode("cp437").decode("utf-8").replace("\\", "/")
    except UnicodeError:
        return member.filename


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        members: list[tarfile.TarInfo] = []
        _require_sane(archive, folder, _sizes(archive, opened, members))
        _require_end(opened)
        for member in members:
            packed = opened.extractfile(member)
            assert packed is not None  # as it is a file
            with packed:
                _write(packed, folder / member.name, member.mtime)


def _sizes(archive: Path, opened: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Iterator[int]:
    """Yield the size of each file, and add it to `members`; a link could lead out of the folder, and is refused."""
    for member in opened:
        if member.isdir():
            continue
        if not member.isfile():
            raise FlowersError(f"`{archive}` has a link or a device, {member.name!r}; pack the files themselves")
        _require_inside(archive, member.name)
        members.append(member)
        yield member.size


def _require_end(opened: tarfile.TarFile) -> None:
    """Raise where no end was found: at a damaged header Python stops as if there were no more files."""
    file = opened.fileobj
    assert file is not None
    file.seek(opened.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is damaged, or cut short")
    while file.read(1 << 20):  # to the end of a compressed file, where its checksum is
        pass


def _write(packed: IO[bytes], target: Path, seconds: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        shutil.copyfileobj(packed, file)
    os.utime(target, (seconds, seconds))


def _require_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FlowersError(f"`{archive}` has a file that would lie outside of it, {name!r}; do not trust it")


def _require_sane(archive: Path, folder: Path, sizes: Iterable[int]) -> None:
    """Refuse an archive of too many or too large files, as soon as that is seen."""
    total, packed = 0, archive.stat().st_size
    for number, size in enumerate(sizes, 1):
        total += size
        if number > MAX_FILES or total > MAX_EXPANSION * packed + (1 << 20):
            raise FlowersError(
                f"`{archive}` has {packed / 1e6:,.1f} MB and would unpack to {total / 1e6:,.0f} MB or more in "
                f"{number:,} files, as no photographs do; unpack it yourself if you trust it"
            )
    if (free := shutil.disk_usage(folder).free) < total:
        raise FlowersError(
            f"`{archive}` unpacks to {total / 1e9:.1f} GB; `{folder.parent}` has {free / 1e9:.1f} GB free"
        )
