"""The estimated time of a kernel: against the real log, against what is counted, and as the documentation has it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jupytext
import pytest

from flowerlib.kaggle import duration, kernels

ROOT = Path(__file__).parents[2]
ACCELERATED = [kernel for kernel in kernels.SERIES.values() if kernel.accelerated]


def parameters(kernel):
    """The value of each parameter of a kernel's notebook."""
    cells = jupytext.read(ROOT / f"notebooks/{kernel.notebook}.py", fmt="py:percent").cells
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    exec(cell.source, values := {})
    return values


def test_the_real_log_is_reproduced():
    """Its 35 epochs of EfficientNetB7 took 2,481 s in all: 41 min 21 s."""
    b7 = kernels.SERIES["13_efficientnetb7"]
    logged = replace(b7, work=replace(b7.work, images=35 * (12_753 + 3_712 / 3)))
    assert duration.minutes(logged, "TpuV5E8") == pytest.approx(2481 / 60, abs=1)


def test_only_computing_is_slower_on_a_gpu():
    """By hand: a B7 takes 84 + 853 + 105 s, and for each 128 images a step of 0.371 s, on a GPU nine times that."""
    b7 = kernels.SERIES["13_efficientnetb7"]
    one_step = replace(b7, work=replace(b7.work, images=128))
    assert duration.minutes(one_step, "TpuV5E8") == duration.minutes(one_step, "NvidiaTeslaT4") == 18  # 17.4 min
    steps = replace(b7, work=replace(b7.work, images=128 * 1000))  # 371 s, and 3,339 s
    assert duration.minutes(steps, "TpuV5E8") == 24  # 1,413 s
    assert duration.minutes(steps, "NvidiaTeslaT4") == 74  # 4,381 s


def test_the_whole_series_fits_in_a_week_on_either():
    for machine, kind in (("TpuV5E8", "tpu"), ("NvidiaTeslaT4", "gpu")):
        minutes = [duration.minutes(kernel, machine) for kernel in ACCELERATED]
        assert sum(minutes) / 60 < duration.WEEKLY_HOURS[kind]
        assert max(minutes) / 60 < duration.SESSION_HOURS


@pytest.mark.parametrize("kernel", ACCELERATED, ids=lambda kernel: kernel.notebook)
def test_the_work_is_that_of_the_notebook(kernel):
    given = parameters(kernel)
    if "NUM_AUGMENTED_VIEWS" in given:
        views = (2 + given["NUM_AUGMENTED_VIEWS"]) * 12_753 + 2 * (3_712 + 7_382)
        assert kernel.work.images == views
    else:
        assert kernel.work.images == given["EPOCHS"] * (12_753 + 3_712 / 3)
    rows = json.loads((ROOT / "benchmarks/results/tpu.json").read_text("utf-8"))["rows"]
    counted = {row["what"].split(":")[0]: row["value"] for row in rows if "operations an image" in row["what"]}
    if given["IMAGE_SIZE"] == 512:
        assert kernel.work.operations == pytest.approx(counted[given["BACKBONE"]], rel=1e-3)
    elif given["BACKBONE"] in counted:  # they grow with the number of pixels
        shrunk = counted[given["BACKBONE"]] * (given["IMAGE_SIZE"] / 512) ** 2
        assert kernel.work.operations == pytest.approx(shrunk, rel=0.02)
    layers = re.search(
        rf'"{given["BACKBONE"]}": \([\d_]+, [\d_]+, (\d+),', (ROOT / "tests/networks/test_backbones.py").read_text()
    )
    assert kernel.work.layers == int(layers[1]) / (3 if "NUM_AUGMENTED_VIEWS" in given else 1)


def test_the_table_of_the_documentation_is_what_the_quota_check_uses():
    text = (ROOT / "docs/kaggle.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d\d_\w+) \| (\d+ \| \d+) \|$", text, re.MULTILINE))
    machines = ("TpuV5E8", "NvidiaTeslaT4")
    assert rows == {
        kernel.notebook: " | ".join(str(duration.minutes(kernel, machine)) for machine in machines)
        for kernel in ACCELERATED
    }
    [totals] = re.findall(r"^\| all \| ([\d.]+) h \| ([\d.]+) h \|$", text, re.MULTILINE)
    for total, machine in zip(totals, machines, strict=True):
        assert float(total) == round(sum(duration.minutes(kernel, machine) for kernel in ACCELERATED) / 60, 1)
    assert "20 hours of TPU and 30 hours of GPU a week" in text
    assert duration.WEEKLY_HOURS == {"tpu": 20, "gpu": 30}
