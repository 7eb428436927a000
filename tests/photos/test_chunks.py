"""Photographs are prepared once: an interrupted conversion resumes, and ends with the same bytes."""

import io
import signal
import subprocess
import sys

import numpy as np
from made_photographs import SIZE, picture, read_all_files
from PIL import Image

from flowerlib.photos import photo, preparation

RED = (200, 40, 60)


def test_prepared_photographs_tell_whether_they_show_the_same(tmp_path):
    picture(0).save(tmp_path / "a.png")
    picture(0).save(tmp_path / "b.bmp")
    Image.new("RGB", (80, 80), RED).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"")
    a, b, c, d = (preparation.prepare(tmp_path / name, SIZE, "crop") for name in ("a.png", "b.bmp", "c.png", "d.png"))
    assert a.digest == b.digest != c.digest
    assert [prepared.error for prepared in (a, b, c, d)] == ["", "", "", "is empty"]
    assert d.jpeg == b""
    decoded = np.asarray(Image.open(io.BytesIO(a.jpeg))).astype(int)
    assert abs(decoded - photo.read(tmp_path / "a.png", SIZE)).mean() < 3
    assert abs(c.thumbnail.astype(int) - RED).max() <= 3


STOPPED = """
import os, signal, sys
from pathlib import Path
from flowerlib.photos import chunks, folder
source, out, log, limit = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
chunks.CHUNK_SIZE, save = 8, chunks._save_chunk
def logged(chunk, prepared):
    save(chunk, prepared)
    with log.open("a") as file:
        print(chunk.name, file=file)
    if chunk.name == f"{limit:05d}":
        os.kill(os.getpid(), signal.SIGKILL)
chunks._save_chunk = logged
if __name__ == "__main__":
    folder.convert(source, out, image_size=48, progress=False)
"""


def test_a_stopped_call_resumes_and_ends_with_the_same_bytes(source, converted, tmp_path):
    out, log = tmp_path / "flowers", tmp_path / "log"
    command = [sys.executable, "-c", STOPPED, source, out, log]
    assert subprocess.run([*command, "1"]).returncode == -signal.SIGKILL
    assert log.read_text().split() == ["00000", "00001"]
    assert not out.exists()
    subprocess.run([*command, "99"], check=True)
    assert log.read_text().split() == ["00000", "00001", "00002", "00003", "00004"]  # none twice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "log"]
    assert read_all_files(out) == read_all_files(converted[0])


def test_what_a_stopped_call_kept_and_was_damaged_is_made_again(source, converted, tmp_path, capfd):
    out, log = tmp_path / "flowers", tmp_path / "log"
    command = [sys.executable, "-c", STOPPED, source, out, log]
    assert subprocess.run([*command, "1"]).returncode == -signal.SIGKILL
    [kept] = tmp_path.glob(".flowers.preparing/*/00000.tfrec")
    content = kept.read_bytes()
    kept.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])  # within a photograph
    subprocess.run([*command, "99"], check=True)
    assert f"`{kept}` is damaged, or has no checksum: set aside" in capfd.readouterr().out
    assert read_all_files(out) == read_all_files(converted[0])
