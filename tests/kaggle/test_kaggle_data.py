"""`flowerlib data`: the real `kaggle` package fetches the competition's data from the stand-in for kaggle.com."""

import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from kaggle_helpers import assert_fails, read_all_files
from kaggle_server import RULES

from flowerlib import cli

FOLDER = "tfrecords-jpeg-24x24"
CHUNK = 1 << 20  # bytes that the package writes at a time, and goes on at
LARGE = f"{FOLDER}/train/00-24x24-8.tfrec"  # the third file, of more than three chunks
WHOLE = ("part", 10**9)  # no fault
ATTEMPTS = 6  # of the package at one transfer, while the connection is cut again and again
RULES_PAGE = "https://www.kaggle.com/competitions/tpu-getting-started/rules"


@pytest.fixture
def stored(server, records, write_flowers, tmp_path):
    """Return the files of one size, which the server has beside those of another size and a submission."""
    records["train"][0][0]["more"] = bytes(3 * CHUNK)
    root = Path(write_flowers(tmp_path / "at-kaggle", records))
    paths = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.tfrec"))}
    others = {path.replace("24x24", "512x512"): b"others" for path in paths}
    server.data_files = paths | others | {"sample_submission.csv": b"id,label\n"}
    server.page_size = 4
    return paths


@pytest.fixture
def flowerlib(here, tmp_path, monkeypatch, capsys):
    """Return `flowerlib(*arguments)`, which runs the command in this process, and waits for nobody."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["flowerlib", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        if isinstance(end.value.code, str):  # which Python prints at the end of a process
            return CompletedProcess(arguments, 1, out, f"{err}{end.value.code}\n")
        return CompletedProcess(arguments, end.value.code or 0, out, err)

    return run


@pytest.fixture
def kept(tmp_path):
    """Return the folder that the data are fetched into unless another is named."""
    return tmp_path / "cache/flowerlib/competition"


def asked(server, method="DownloadDataFile"):
    """The bodies of the calls of a method."""
    return [body for name, body in server.requests if name == method]


def downloads(server, path):
    """The first byte and the number of bytes of each transfer of a file."""
    return [(first, sent) for name, first, sent in server.downloads if name == path]


def test_the_size_that_is_asked_for_is_fetched_whole_checked_and_found(server, stored, flowerlib, kept):
    server.zipped = {LARGE}
    done = flowerlib("data", "--size", 24)
    assert done.returncode == 0, done.stderr
    assert f"{kept}: 23 train, 9 val, 7 test images of 24 x 24 px" in done.stdout
    assert read_all_files(kept) == stored
    assert [body["fileName"] for body in asked(server)] == list(stored)
    assert len(asked(server, "ListDataFiles")) == 4  # of 15 files, four at a time
    assert flowerlib("check").stdout == done.stdout


def test_what_is_there_is_not_asked_for_again(server, stored, flowerlib, kept, tmp_path):
    done = flowerlib("data", "--to", tmp_path / "mine", "--size", 24)
    assert f"Name it with --data {tmp_path}/mine or FLOWERS_DATA={tmp_path}/mine." in done.stdout
    assert not kept.exists()
    server.requests.clear()
    assert "there already" in flowerlib("data", "--to", tmp_path / "mine", "--size", 24).stdout
    assert server.requests == []


def test_a_transfer_that_is_cut_goes_on_where_it_was(server, stored, flowerlib, kept):
    server.fail_next("data", WHOLE, WHOLE, ("part", CHUNK + 100))
    done = flowerlib("data", "--size", 24)
    assert done.returncode == 0, done.stderr
    assert downloads(server, LARGE) == [(0, CHUNK + 100), (CHUNK, len(stored[LARGE]) - CHUNK)]
    assert read_all_files(kept) == stored


def test_a_call_that_gave_up_goes_on_with_the_next_one(server, stored, flowerlib, kept):
    """Whole files are not asked for again, and until all are there nobody finds a part of the data."""
    server.fail_next("data", WHOLE, WHOLE, *[("part", CHUNK + 100)] * 2, *[("part", 5)] * (ATTEMPTS - 2))
    assert_fails(flowerlib("data", "--size", 24), "run the same command again, what has arrived is kept")
    assert not (kept / FOLDER).exists()
    assert_fails(flowerlib("check"), "no flowers found")
    server.requests.clear()
    server.downloads.clear()
    done = flowerlib("data", "--size", 24)
    assert done.returncode == 0, done.stderr
    assert [body["fileName"] for body in asked(server)] == list(stored)[2:]
    assert downloads(server, LARGE)[-1] == (2 * CHUNK, len(stored[LARGE]) - 2 * CHUNK)
    assert read_all_files(kept) == stored


def test_a_file_that_changed_at_kaggle_is_not_sewn_together_of_two(server, stored, flowerlib, kept):
    server.data_files[LARGE] = bytes(len(stored[LARGE]))
    server.fail_next("data", WHOLE, WHOLE, ("part", CHUNK + 100), *[("part", 5)] * (ATTEMPTS - 1))
    assert flowerlib("data", "--size", 24).returncode == 1
    server.data_files[LARGE] = stored[LARGE]
    assert flowerlib("data", "--size", 24).returncode == 0
    assert read_all_files(kept) == stored


@pytest.mark.parametrize(
    ("method", "fault", "words"),
    [
        ("ListDataFiles", ("http", 429, "Too many requests"), "Kaggle rate limit reached"),
        ("DownloadDataFile", ("http", 429, "Too many requests"), "run the same command again in some minutes"),
        ("DownloadDataFile", ("page", 200), "run the same command again in some minutes, what has arrived is kept"),
        ("DownloadDataFile", ("http", 503, "Unavailable"), "server error (Unavailable); run the same command again"),
        ("DownloadDataFile", ("cut",), "Kaggle cannot be reached"),
        ("DownloadDataFile", ("http", 403, RULES), RULES_PAGE),
    ],
)
def test_a_refusal_is_one_line(server, stored, flowerlib, kept, method, fault, words):
    server.fail_next(method, fault)
    assert_fails(flowerlib("data", "--size", 24), words)
    assert not (kept / FOLDER).exists()


def test_who_has_not_accepted_the_rules_is_told_where(server, stored, flowerlib):
    server.competitions.clear()
    where = f"; accept the competition's rules at {RULES_PAGE}, and run the same command again"
    assert_fails(flowerlib("data", "--size", 24), RULES.rstrip("."), where)


def test_who_is_not_logged_in_is_told_how(server, stored, flowerlib, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert_fails(flowerlib("data", "--size", 24), "no Kaggle credentials: log in with `kaggle auth login`")
    assert server.requests == []


def test_a_size_that_there_is_not_lists_those_there_are(server, stored, flowerlib):
    assert_fails(flowerlib("data", "--size", 200), "`--size` (=200) must be one of 24, 512")
    assert asked(server) == []


def test_a_disk_without_room_is_known_before_anything_is_fetched(server, stored, flowerlib, kept):
    server.data_sizes[LARGE] = 10**18
    done = flowerlib("data", "--size", 24)
    assert_fails(done, f"`{kept}` has ", "1,000,000,000.0 GB are to come; make room, or name another folder with --to")
    assert asked(server) == []


def test_a_folder_that_cannot_be_made_is_named(server, stored, flowerlib, tmp_path):
    (tmp_path / "file").touch()
    assert_fails(flowerlib("data", "--to", tmp_path / "file/data"), f"`{tmp_path}/file/data` cannot be written")


def test_a_damaged_file_is_named_and_fetched_again_when_it_is_removed(server, stored, flowerlib, kept):
    damaged = list(stored)[3]
    server.data_files[damaged] = stored[damaged][:-10] + b"0123456789"
    place = kept / f".{FOLDER}/{damaged}"
    assert_fails(flowerlib("data", "--size", 24), f"`{place}` record", "(remove it, and run the same command again)")
    assert not (kept / FOLDER).exists()
    place.unlink()
    server.data_files[damaged] = stored[damaged]
    server.requests.clear()
    assert flowerlib("data", "--size", 24).returncode == 0
    assert [body["fileName"] for body in asked(server)] == [damaged]
