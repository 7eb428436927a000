import json
import sys
import time

import numpy as np
import pytest

from benchmarks import harness, input, redense
from benchmarks.harness import Report, Row
from flowerlib import data


def test_contestants_take_turns_after_one_that_does_not_count():
    calls = []

    def contestant(name):
        def run():
            calls.append(name)
            return float(len(calls))

        return run

    results = harness.in_turns({"ours": contestant("ours"), "theirs": contestant("theirs")}, 3)
    assert calls == ["ours", "theirs"] * 4
    assert results == {"ours": [3, 5, 7], "theirs": [4, 6, 8]}


def test_a_ratio_is_the_median_of_the_turns_ratios_and_not_the_ratio_of_the_medians():
    results = {"ours": [10.0, 40.0, 30.0], "theirs": [5.0, 10.0, 30.0]}
    assert harness.ratio(results, "ours", "theirs") == 2  # of 2, 4, 1; the medians are 30 and 10
    assert harness.medians(results) == {"ours": 30, "theirs": 10}


def test_a_target_is_met_from_its_own_side():
    cases = ((1.0, ">= 1", "yes"), (0.9, ">= 1", "no"), (1.0, "<= 1.05", "yes"), (1.1, "<= 1.05", "no"))
    for value, target, met in cases:
        assert Row("", value, "x", target).met == met
    assert Row("", 1.0, "x").met == ""


def test_a_report_keeps_what_was_measured_and_where(tmp_path):
    Report("start", [Row("import", 0.02, "s", "<= 0.3")], {"seconds": [0.02, 0.03]}).save(folder=tmp_path)
    kept = json.loads((tmp_path / "start.json").read_text())
    assert kept["rows"] == [{"what": "import", "value": 0.02, "unit": "s", "target": "<= 0.3"}]
    assert kept["raw"] == {"seconds": [0.02, 0.03]}
    assert kept["versions"]["numpy"]
    assert kept["cores"] > 0


@pytest.mark.parametrize("given", [["--data", "/home/me/flowers"], ["--data=/home/me/flowers"]])
def test_where_the_data_lay_is_not_told(given, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "input", *given, "--quick"])
    Report("input", []).save(folder=tmp_path)
    command = json.loads((tmp_path / "input.json").read_text())["command"]
    assert command.replace("=", " ") == "python -m benchmarks input --data DIR --quick"


def test_what_a_stopped_benchmark_had_computed_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PARTS", tmp_path)
    calls = []

    def compute():
        calls.append(1)
        return [len(calls)]

    assert harness.kept("start-ours", [1, "data"], compute) == [1]
    assert harness.kept("start-ours", [1, "data"], compute) == [1]
    assert harness.kept("start-ours", [2, "data"], compute) == [2]  # another number of epochs, say
    Report("start", []).save(folder=tmp_path / "results")  # it is whole: the next one begins anew
    assert harness.kept("start-ours", [2, "data"], compute) == [3]


def test_the_clock_does_not_count_what_it_pauses_for():
    clock = harness.Clock()
    time.sleep(0.05)
    seconds, value = clock.pause(lambda: time.sleep(0.5) or 7)
    assert value == 7
    assert 0.05 <= seconds <= clock.now() < 0.4


def test_the_time_to_a_goal_is_that_of_the_first_point_at_it_and_never_is_no_number():
    ours, theirs = [(10.0, 0.5), (20.0, 0.9), (30.0, 0.8)], [(50.0, 0.7), (90.0, 0.95)]
    assert harness.reached(ours, 0.9) == 20
    assert harness.reached(ours, 0.91) is None
    assert harness.gain(ours, theirs, 0.9) == 4.5
    assert harness.gain(ours, theirs[:1], 0.9) == 2.5  # they were not there after 50 s: at least that
    assert harness.gain(ours, theirs, 0.91) is None
    assert Row("", None, "x", ">= 1").met == Row("", None, "x", "<= 1").met == "no"
    assert harness.shown(None) == "never"


def test_the_readme_holds_all_results_as_they_are_kept(tmp_path):
    text = harness.README.read_text()
    (copy := tmp_path / "README.md").write_text(text)
    harness.write_table(copy)
    assert copy.read_text() == text, "run: python -m benchmarks"


def test_a_table_tells_what_was_measured_where_and_how(tmp_path):
    rows = [Row("import", 0.0213, "s", "<= 0.3"), Row("decode", 16026.4, "images/s"), Row("goal", None, "s", "<= 9")]
    Report("start", rows).save(folder=tmp_path)
    table = harness.markdown(tmp_path)
    assert "\n### start\n\n" in table
    assert ": `python -m benchmarks" in table  # after the date and the machine
    for row in (
        "| import | 0.0213 | s | <= 0.3 | yes |",
        "| decode | 16,026 | images/s |  |  |",
        "| goal | never | s | <= 9 | no |",
    ):
        assert f"\n{row}\n" in table


def test_enlarged_photographs_are_the_first_of_train_and_are_read_as_any_other(flowers, tmp_path):
    enlarged = input.enlarged(flowers, tmp_path, 64, 5)
    [(images, labels, ids)] = data.eval_batches(enlarged, "train", 8)
    small, same_labels, same_ids = next(iter(data.eval_batches(flowers, "train", 5)))
    assert images.shape == (5, 64, 64, 3)
    assert (labels.numpy().tolist(), ids.numpy().tolist()) == (same_labels.numpy().tolist(), same_ids.numpy().tolist())
    assert np.abs(images.numpy().mean((1, 2)) - small.numpy().mean((1, 2))).max() < 4  # of 255: the same colours


def test_what_layers_change_is_paired_by_seed():
    heads = [[0.90, 0.5, 0.4], [0.92, 0.4, 0.3], [0.91, 0.4, 0.2], [0.90, 0.4, 0.1]]
    lucky = [[score + 0.01 for score in each] for each in heads]
    linear, once, *_ = redense.rows([heads, lucky])
    assert linear.what == "macro F1 on val: linear head (0.9000 to 0.9100)"
    assert once.what == "macro F1 on val: change by 1 ReDense (+0.0200 to +0.0200)"
    assert (linear.value, once.value) == (pytest.approx(0.905), pytest.approx(0.02))
