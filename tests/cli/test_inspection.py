"""`list`, `doctor`, `cache`, `compare`, `--version`: what one asks before one begins, and when something is wrong."""

import os
import subprocess
import sys

import pytest

from flowerlib import __version__
from flowerlib.cli import cache, doctor, listing
from flowerlib.config import FlowersError, cache_dir


def flowerlib(*arguments, **environment):
    command = [sys.executable, "-m", "flowerlib", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_the_version_is_that_of_the_package():
    assert flowerlib("--version").stdout == f"flowerlib {__version__}\n"


@pytest.mark.parametrize("arguments", [("-h",), ("run", "-h"), ("kaggle", "-h")])
def test_h_is_help(arguments):
    assert "Usage: " in flowerlib(*arguments).stdout


def test_the_report_tells_of_data_weights_and_credentials_and_no_secret(flowers, monkeypatch, tmp_path):
    (tmp_path / "kaggle.json").write_text('{"username": "someone", "key": "top-secret"}')
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KEY", "top-secret")
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    report = doctor.report()
    assert "23 train, 9 val, 7 test images" in report
    assert "EfficientNetLite0: /" in report
    assert f"credentials in KAGGLE_KEY, {tmp_path}/kaggle.json" in report
    assert "top-secret" not in report


def test_what_is_missing_is_said_with_a_question_mark_and_the_rest_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWERS_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    report = doctor.report()
    assert f"data       ? no flowers found: no folder `tfrecords-jpeg-<S>x<S>` in `{tmp_path}/nowhere`" in report
    assert "? no credentials: kaggle auth login" in report
    assert "cache " in report


def test_the_list_has_notebooks_networks_and_runs(trained, capsys):
    listing.show(trained.parents[1])
    shown = capsys.readouterr().out
    for word in ("03_finetune", "DenseNet201", "18.3", "224 px", "tiny"):
        assert word in shown


def test_the_cache_is_counted_and_cleared_by_kind():
    for kind, size in (("features", 3_000_000), ("records", 2_000_000), ("sample-1", 1_000_000)):
        (cache_dir() / kind).mkdir(parents=True)
        (cache_dir() / kind / "file").write_bytes(bytes(size))
    assert [line.split()[:2] for line in cache.show().splitlines()[:5]] == [
        ["features", "3.0"], ["records", "2.0"], ["xla", "0.0"], ["competition", "0.0"], ["sample", "1.0"],
    ]  # fmt: skip
    assert cache.clear("sample") == "1.0 MB freed"
    assert not (cache_dir() / "sample-1").exists()
    assert (cache_dir() / "features/file").exists()
    assert cache.clear(None) == "5.0 MB freed"
    there = "features, records, xla, competition, sample"
    with pytest.raises(FlowersError, match=f"nothing is kept as 'models'; there are {there}"):
        cache.clear("models")


def test_two_runs_are_compared(trained):
    done = flowerlib("compare", trained, trained)
    assert "no evidence of a difference (0.000 to 0.000), 95 %" in done.stdout
    assert "0 images gained, 0 lost" in done.stdout


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5min", 300), ("9h", 32400), ("2.5", 2.5)])
def test_durations_have_units(text, seconds):
    from flowerlib.cli import options

    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["0s", "soon", "-3s", "3 weeks"])
def test_what_is_no_duration_is_refused(text):
    done = flowerlib("serve", "--model", "nowhere", "--timeout", text)
    assert done.returncode != 0
    assert "is no duration; write 30s, 5min or 9h" in done.stderr


def test_choices_are_named_where_one_is_wrong():
    done = flowerlib("export", "nowhere", "--format", "onxx")
    assert "'onnx', 'litert', 'savedmodel'" in done.stderr
