"""`FlowersError`, `cache_dir`, and that `atomic_write` leaves all of a file or folder, or what was there before."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowerlib import config
from flowerlib.config import FlowersError, atomic_write, cache_dir


def test_a_flowers_error_is_a_value_error():
    assert issubclass(FlowersError, ValueError)


def test_the_cache_is_where_xdg_says_else_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "flowerlib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "flowerlib"


def listing(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_whole_and_only_at_the_end(tmp_path):
    target = tmp_path / "runs" / "new" / "model.weights.h5"
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.name.endswith(".weights.h5")  # Keras refuses others; numpy.savez appends its own
        temporary.write_text("whole")
    assert listing(tmp_path) == {"runs/new/model.weights.h5": "whole"}


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "run.json"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert listing(tmp_path) == {"run.json": "new"}


def test_a_folder_replaces_the_whole_of_the_folder_that_is_there(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "only-in-old").write_text("old")
    with atomic_write(target) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("new")
        assert listing(target) == {"only-in-old": "old"}
    assert listing(tmp_path) == {"model/weights": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_after_a_failure_the_old_one_is_untouched_and_nothing_else_is_left(tmp_path, kind, error):
    target = tmp_path / "model"
    old = target if kind == "file" else target / "weights"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")

    def write_half(temporary):
        if kind == "folder":
            temporary.mkdir()
        (temporary if kind == "file" else temporary / "weights").write_text("ne")
        raise error

    with pytest.raises(error), atomic_write(target) as temporary:
        write_half(temporary)
    assert listing(tmp_path) == {old.relative_to(tmp_path).as_posix(): "old"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_writes_nothing_is_an_error_and_costs_nothing(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(target):
        pass
    assert listing(tmp_path) == {"model/weights": "old"}


def test_a_reader_never_sees_half_of_the_old_folder_while_it_is_removed(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    rmtree, removed = config.shutil.rmtree, []

    def spy(path, **options):
        removed.append(Path(path))
        rmtree(path, **options)

    monkeypatch.setattr(config.shutil, "rmtree", spy)
    with atomic_write(target) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("new")
    assert target not in removed  # file by file, for as long as it takes: rename it away first, remove it then
    assert listing(tmp_path) == {"model/weights": "new"}


HERE = config._machine()


@pytest.mark.parametrize("name", ["ip-10-0-0-12.ec2.internal", "worker-3.cluster.local", "x" * 64])
def test_names_of_temporaries_are_read_as_they_were_written_whatever_the_machine_is_called(
    tmp_path, monkeypatch, dead_process, name
):
    """Within a day, and for a folder whose name is as long as names of files may nearly be."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    target = tmp_path / ("m" * 200)
    with atomic_write(target) as temporary:
        temporary.mkdir()
        left = temporary.name.replace(str(os.getpid()), str(dead_process))
    former = tmp_path / f"{left}.former"
    target.replace(former)
    config.remove_stale_temporaries(tmp_path, target.name)
    assert listing(tmp_path) == {}
    assert target.is_dir()


def test_process_numbers_of_another_container_say_nothing(tmp_path, monkeypatch):
    before = config._machine()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[4026532000]")
    assert config._machine() != before


def test_what_another_machine_makes_is_left_alone_for_a_day(tmp_path, dead_process):
    theirs = tmp_path / f".flowerlib-another.host-{dead_process}.run.json"
    theirs.write_text("half")
    config.remove_stale_temporaries(tmp_path, "run.json")
    assert theirs.exists()
    os.utime(theirs, (time.time() - 25 * 3600,) * 2)
    config.remove_stale_temporaries(tmp_path, "run.json")
    assert not theirs.exists()


def test_nothing_that_was_set_aside_is_lost(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "resume.npz").write_text(content)
        config.set_aside(tmp_path / "resume.npz")
    assert listing(tmp_path) == {".aside-1.resume.npz": "one", ".aside-2.resume.npz": "two"}


def test_what_is_kept_is_made_once_and_again_when_it_is_damaged(tmp_path, capsys):
    path, made = tmp_path / "kept/file", []

    def make():
        made.append(1)
        with atomic_write(path) as temporary:
            temporary.write_text("content")
            config.write_checksum(path, temporary)

    for _ in range(2):
        config.make_once(path, make)
    assert len(made) == 1
    path.with_name("file.sha256").write_bytes(b"\xff\xfe")
    config.make_once(path, make)
    assert len(made) == 2
    assert "set aside as `.aside-1.file`, and made again" in capsys.readouterr().out


@pytest.fixture
def dead_process():
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("number", ["this process", "a dead one"])
def test_what_a_killed_process_left_is_not_taken_over_and_does_not_stay(tmp_path, number, dead_process):
    process = os.getpid() if number == "this process" else dead_process
    stale = tmp_path / f".flowerlib-{HERE}-{process}.dataset"
    stale.mkdir()
    (stale / "old-shard").write_text("of another division")
    with atomic_write(tmp_path / "dataset") as temporary:
        temporary.mkdir()
        (temporary / "shard").write_text("new")
    assert listing(tmp_path) == {"dataset/shard": "new"}


def test_what_was_moved_away_by_a_process_that_was_killed_then_comes_back(tmp_path, dead_process):
    """Between the two renames neither the old folder nor the new one has its name."""
    for name in ("model", "other"):
        (tmp_path / f".flowerlib-{HERE}-{dead_process}.{name}.former").mkdir()
        (tmp_path / f".flowerlib-{HERE}-{dead_process}.{name}.former/weights").write_text("old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/weights").write_text("new")
    config.remove_stale_temporaries(tmp_path)
    assert listing(tmp_path) == {"model/weights": "old", "other/weights": "new"}


def test_what_others_make_or_wrote_is_not_removed(tmp_path):
    (tmp_path / f".flowerlib-{HERE}-{os.getppid()}.run.json").write_text("half")
    (tmp_path / ".2024.run.json").write_text("somebody's")
    with atomic_write(tmp_path / "run.json") as temporary:
        temporary.write_text("new")
        config.remove_stale_temporaries(tmp_path)  # of everything, while this one is made
        assert temporary.exists()
    kept = {f".flowerlib-{HERE}-{os.getppid()}.run.json": "half", ".2024.run.json": "somebody's"}
    assert listing(tmp_path) == kept | {"run.json": "new"}


HOLD = """
import sys, time
from pathlib import Path
from flowerlib.config import exclusive_lock

with exclusive_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    print("let go", flush=True)
"""


def hold(path, seconds):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_lock_names_who_holds_it_waits_and_leaves_nothing(tmp_path):
    path, told = tmp_path / "runs/.lock", []
    with hold(path, 0.5) as holder, config.exclusive_lock(path, told.append):
        assert holder.stdout.read() == "let go\n"  # before it was ours
        assert path.read_text() == f"{os.getpid()}\n"
    assert told == [str(holder.pid)]
    assert not any(path.parent.iterdir())


def test_who_is_told_may_refuse_and_a_killed_holder_holds_nothing(tmp_path):
    path = tmp_path / ".lock"

    def refuse(process):
        raise FlowersError(f"process {process}")

    with hold(path, 60) as holder:
        with pytest.raises(FlowersError, match=f"process {holder.pid}"), config.exclusive_lock(path, refuse):
            pass
        holder.kill()
    with config.exclusive_lock(path, refuse):
        assert path.exists()
    assert not path.exists()


def test_a_lock_that_goes_at_the_last_moment_is_asked_for_again(tmp_path, monkeypatch):
    """Who held it removes it between the two looks at it."""
    path, stat, asked = tmp_path / ".lock", Path.stat, []

    def removed_meanwhile(self, **options):
        if self == path and not asked:
            asked.append(path.unlink())
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", removed_meanwhile)
    with config.exclusive_lock(path, print):
        assert asked
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_in_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "cache").write_text("a file")
    refused = pytest.raises(FlowersError, match=r"`.*/cache` cannot be written .*XDG_CACHE_HOME")
    with refused, config.exclusive_lock(tmp_path / "cache/.lock", print):
        pass
