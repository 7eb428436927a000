"""Zip and tar files of photographs: unpacked whole, within their folder, and no bombs."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest
from made_photographs import picture

from flowerlib.config import FlowersError
from flowerlib.photos import archives


def jpeg(seed):
    picture(seed).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


FILES = {"flowers/rose/1.jpg": jpeg(1), "flowers/Ölbaum/花.jpg": jpeg(2)}


def zipped(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(archive, folder):
    archives.unpack(archive, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_and_a_tar_file_give_their_files(tmp_path):
    zip_file, tgz, tar = tmp_path / "a.zip", tmp_path / "a.tgz", tmp_path / "a.tar"
    for archive in (zipped(zip_file, FILES), tarred(tgz, FILES), tarred(tar, FILES, "w")):
        assert archives.is_archive(archive)
        assert unpacked(archive, tmp_path / f"out-{archive.suffix}") == FILES


def test_a_photograph_a_table_and_a_workbook_are_no_archives(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "a.csv").write_text("path,label\n")
    zipped(tmp_path / "a.xlsx", {"[Content_Types].xml": b"", "xl/workbook.xml": b""})
    assert not any(archives.is_archive(path) for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "nowhere"])


def test_names_in_utf_8_that_do_not_say_so_are_read(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"rose/x--.jpg": b"1"})
    content = archive.read_bytes().replace(b"x--.jpg", "xö.jpg".encode())
    archive.write_bytes(content)
    assert unpacked(archive, tmp_path / "out") == {"rose/xö.jpg": b"1"}


@pytest.mark.parametrize("name", ["../outside.jpg", "/outside.jpg", "a/../../outside.jpg"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_path_outside_is_refused_and_nothing_stays(tmp_path, pack, name):
    archive = pack(tmp_path / "a", {"rose/1.jpg": b"1", name: b"2"})
    with pytest.raises(FlowersError, match="has a file that would lie outside of it"):
        archives.unpack(archive, tmp_path / "in/out")
    assert not list((tmp_path / "in").iterdir())
    assert not (tmp_path / "outside.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_tar_file_is_refused_wherever_it_leads(tmp_path, kind):
    """Through several links of which each is harmless, a file gets out of the folder (CVE-2025-4517)."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("rose/1.jpg")
        link.type, link.linkname = kind, "rose/2.jpg"
        archive.addfile(link)
    with pytest.raises(FlowersError, match=r"has a link or a device, 'rose/1.jpg'; pack the files themselves"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("damage", ["a header", "cut short"])
def test_a_damaged_tar_file_loses_no_photograph_without_a_word(tmp_path, mode, damage):
    """Python reads a tar file up to a damaged header, and says nothing."""
    whole = tarred(tmp_path / "a.tar", FILES, "w").read_bytes()
    second = 512 + -(-len(FILES["flowers/rose/1.jpg"]) // 512) * 512  # a header, and the file in blocks
    broken = whole[:second] + (b"\xff" + whole[second + 1 :] if damage == "a header" else b"")
    opener = {"w": open, "w:gz": gzip.open, "w:bz2": bz2.open, "w:xz": lzma.open}[mode]
    with opener(tmp_path / "b.tar", "wb") as file:
        file.write(broken)
    with pytest.raises(FlowersError, match="cannot be unpacked: it is damaged, or cut short"):
        archives.unpack(tmp_path / "b.tar", tmp_path / "out")


@pytest.mark.parametrize(("name", "mode"), [("a.zip", ""), ("a.tgz", "w:gz"), ("a.txz", "w:xz"), ("a.tbz", "w:bz2")])
def test_whatever_byte_is_damaged_the_files_are_right_or_it_is_told(tmp_path, name, mode):
    archive = tmp_path / name
    if mode:
        tarred(archive, FILES, mode)
    else:
        zipped(archive, FILES, compression=zipfile.ZIP_DEFLATED)
    whole = archive.read_bytes()
    for number, at in enumerate(range(0, len(whole), len(whole) // 40)):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        if not archives.is_archive(archive):
            continue
        try:
            files = unpacked(archive, tmp_path / f"out{number}")
        except FlowersError:
            continue
        assert sorted(files.values()) == sorted(FILES.values()), at  # a name may be damaged in a zip file


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb = zipped(tmp_path / "a.zip", {"rose/1.jpg": bytes(300 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 400_000
    with pytest.raises(FlowersError, match=r"has 0.3 MB and would unpack to 315 MB or more in 1 files"):
        archives.unpack(bomb, tmp_path / "out")


def test_a_damaged_and_an_encrypted_file_are_told(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    damaged = bytearray(archive.read_bytes())
    damaged[200] ^= 255
    archive.write_bytes(damaged)
    with pytest.raises(FlowersError, match="cannot be unpacked: "):
        archives.unpack(archive, tmp_path / "out")
    encrypted = zipped(tmp_path / "b.zip", {"rose/1.jpg": b"1"}).read_bytes()
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = encrypted.index(signature) + flags
        encrypted = encrypted[:at] + b"\x01" + encrypted[at + 1 :]
    (tmp_path / "b.zip").write_bytes(encrypted)
    with pytest.raises(FlowersError, match="is encrypted; unpack it yourself"):
        archives.unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_times_of_files_are_those_of_the_archive_so_that_a_second_call_sees_no_change(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    times = []
    for out in ("one", "two"):
        archives.unpack(archive, tmp_path / out)
        times.append([os.stat(path).st_mtime_ns for path in sorted((tmp_path / out).rglob("*.jpg"))])
    assert times[0] == times[1]
