"""Unpack zip and tar files of photographs, safely."""

import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath

from flowerlib.config import FlowersError, atomic_write
from flowerlib.photos.tree import file_name

MAX_EXPANSION = 200  # times the archive's size: photographs do not shrink by as much as one, bombs by thousands
MAX_FILES = 2_000_000


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar archive, and no workbook."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "[Content_Types].xml" not in archive.namelist()
    return tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder that appears whole or not at all; do nothing where it is there.

    Raises:
        FlowersError: a file would lie outside the folder; it is encrypted, damaged, or grows beyond measure; or there
            is no room for it.
    """
    if folder.exists():
        return
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        try:
            (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, temporary)
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            if isinstance(error, FlowersError):
                raise
            raise FlowersError(f"`{archive}` cannot be unpacked: {error}") from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        _require_sane(archive, folder, [member.file_size for member in members])
        for member in members:
            name = _name(member)
            if member.flag_bits & 1:
                raise FlowersError(f"`{archive}` is encrypted; unpack it yourself, and name the folder")
            _require_inside(archive, name)
            target = folder / file_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file)
            seconds = time.mktime((*member.date_time, 0, 0, -1))
            os.utime(target, (seconds, seconds))


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
        members = opened.getmembers()
        _require_sane(archive, folder, [member.size for member in members])
        for member in members:
            _require_inside(archive, member.name)
        opened.extractall(folder, members, filter="data")


def _require_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FlowersError(f"`{archive}` has a file that would lie outside of it, {name!r}; do not trust it")


def _require_sane(archive: Path, folder: Path, sizes: list[int]) -> None:
    total, packed = sum(sizes), archive.stat().st_size
    if len(sizes) > MAX_FILES or total > MAX_EXPANSION * packed + (1 << 20):
        raise FlowersError(
            f"`{archive}` has {packed / 1e6:,.1f} MB and would unpack to {total / 1e6:,.0f} MB in {len(sizes):,} "
            "files, as no photographs do; unpack it yourself if you trust it"
        )
    if (free := shutil.disk_usage(folder).free) < total:
        raise FlowersError(
            f"`{archive}` unpacks to {total / 1e9:.1f} GB; `{folder.parent}` has {free / 1e9:.1f} GB free"
        )
