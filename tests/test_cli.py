"""The command as a user calls it: in a process of its own."""

import os
import re
import resource
import subprocess
import sys

import pytest


def flowerlib(*arguments, **environment):
    command = [sys.executable, "-m", "flowerlib", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def fails_in_one_line(done, *words):
    """Exit code 1 and one line, apart from a progress bar."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not re.search(r"it/s\]|s/it\]", line)]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


OF_KAGGLE = ("build", "lint", "push", "run", "status", "logs", "quota", "output", "submit", "weights-dataset")
ALONE = (
    "run",
    "list",
    "compare",
    "doctor",
    "cache",
    "data",
    "sample",
    "folder",
    "predict",
    "evaluate",
    "export",
    "serve",
    "check",
    "weights",
)
COMMANDS = [(), ("kaggle",), *((name,) for name in ALONE), *(("kaggle", name) for name in OF_KAGGLE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_fast_and_has_an_example(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = flowerlib(*command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, so that a busy machine changes nothing: 0.1 s here; the frameworks alone would take longer.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert done.returncode == 0
    assert f"Example: {' '.join(['flowerlib', *command])}" in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]  # each has its whole first sentence


def test_check_says_what_is_there(flowers):
    done = flowerlib("check", "--data", flowers.root)
    assert done.returncode == 0
    assert "23 train, 9 val, 7 test images of 24 x 24 px" in done.stdout
    assert "every record is sound" in done.stdout


def test_check_names_the_damaged_file(records, write_flowers, tmp_path):
    root = write_flowers(tmp_path / "flowers", records)
    shard = tmp_path / "flowers/tfrecords-jpeg-24x24/val/01-24x24-4.tfrec"
    shard.write_bytes(shard.read_bytes()[:-10])
    fails_in_one_line(flowerlib("check", "--data", root), f"`{shard}` record 3", "truncated")


def test_check_names_the_sizes_that_are_there(flowers):
    fails_in_one_line(flowerlib("check", "--data", flowers.root, "--size", 512), "`image_size` (=512)", "(24,)")


@pytest.mark.parametrize("notebook", ["00_quickstart", "01_eda"])
def test_run_without_data_says_what_to_do_and_writes_nothing(tmp_path, notebook):
    done = flowerlib("run", notebook, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    fails_in_one_line(done, f"`{tmp_path}/nowhere`", "--data or FLOWERS_DATA")
    assert not any(tmp_path.iterdir())


def test_a_slip_is_told_before_the_sample_is_drawn(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = flowerlib("run", "00", "-p", "SEDE=1", "--sample", "--out", tmp_path / "out", **cache)
    fails_in_one_line(done, "did you mean SEED?")
    assert not any(tmp_path.iterdir())


def test_run_draws_no_sample_where_kaggles_place_is_named(tmp_path):
    (tmp_path / "kg").mkdir()
    places = {"FLOWERS_KAGGLE": os.path.relpath(tmp_path / "kg"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = flowerlib("run", "01_eda", "--sample", "--out", tmp_path / "out", **places)
    fails_in_one_line(done, f"`{tmp_path}/kg/input/tpu-getting-started`", "FLOWERS_KAGGLE")
    assert not (tmp_path / "cache/flowerlib").exists()
    assert not (tmp_path / "out").exists()


def test_run_draws_no_sample_where_the_competitions_data_were_fetched(tmp_path):
    train = tmp_path / "flowerlib/competition/tfrecords-jpeg-192x192/train"
    train.mkdir(parents=True)
    done = flowerlib("run", "01_eda", "--sample", "--out", tmp_path / "out", XDG_CACHE_HOME=str(tmp_path))
    fails_in_one_line(done, f"`{train}` has no .tfrec files")
    assert [path.name for path in (tmp_path / "flowerlib").iterdir()] == ["competition"]


def test_run_on_a_damaged_file_names_it_and_writes_nothing(records, write_flowers, tmp_path):
    root = write_flowers(tmp_path / "flowers", records, size=192)
    done = flowerlib("run", "10_densenet201", "--data", root, "--out", tmp_path / "out")
    fails_in_one_line(done, "record 0", "`image` has shape (24, 24, 3), not (192, 192, 3)")
    assert not (tmp_path / "out").exists()


def test_an_unknown_notebook_lists_those_there_are(tmp_path):
    done = flowerlib("run", "15_vit", "--out", tmp_path / "out")
    fails_in_one_line(done, "no notebook '15_vit'", "10_densenet201, 11_xception")
    assert not (tmp_path / "out").exists()


def test_weights_without_network_name_the_file_and_where_to_put_it(tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = flowerlib("weights", "--out", tmp_path / "weights", KERAS_HOME=str(tmp_path / "keras"), **nowhere)
    fails_in_one_line(done, "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", "md5", "FLOWERS_WEIGHTS")
