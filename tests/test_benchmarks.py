import json

from benchmarks import harness
from benchmarks.harness import Report, Row


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
