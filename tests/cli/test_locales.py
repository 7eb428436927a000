"""Names in any language, in any locale: in a process of its own, as Python settles its encodings when it starts."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LOCALES = {
    "utf-8": {"LC_ALL": "en_US.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    "c": {"LC_ALL": "C"},
    "latin-1": {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1:strict"},
    "ascii": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict"},
}
STRICT = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "", "LC_CTYPE": ""}
NAMES = ("Ölbaum", "牡丹", "шиповник 🌹")


def flowerlib(locale, *arguments, code=0):
    """Run the command in one of the locales; what it prints stays bytes."""
    command = [sys.executable, "-m", "flowerlib", *map(os.fsencode, map(str, arguments))]
    done = subprocess.run(command, env=os.environ | STRICT | LOCALES[locale], capture_output=True)
    assert done.returncode == code, done.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in done.stderr
    return done


def save_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize((72, 60)).save(path, "JPEG")


@pytest.fixture
def photographs(tmp_path):
    """Files with names that are no UTF-8, that are Latin-1, Chinese, and that break a line."""
    folder = tmp_path / "photographs"
    names = [b"caf\xe9.jpg", b"\xff\xfe.jpg", "Gehölz 0.jpg".encode(), "牡丹.jpg".encode(), b"a\nb.jpg"]
    for seed, name in enumerate(names):
        save_picture(folder / os.fsdecode(name), seed)
    return folder


@pytest.mark.parametrize(
    ("locale", "form"),
    [("ascii", ()), ("utf-8", ("--json",)), ("c", ("--json",)), ("latin-1", ("--csv",))],
)
def test_predict_answers_every_photograph_whatever_its_name(locale, form, photographs, trained, tmp_path):
    done = flowerlib(
        locale, "predict", photographs, "--model", trained, "--top", 1, "--explain", tmp_path / "lit", *form
    )
    text = done.stdout.decode("utf-8", "surrogateescape")
    if form == ("--json",):
        answered = [json.loads(line)["file"] for line in text.splitlines() if line.startswith("{")]
    elif form == ("--csv",):
        answered = [row["file"] for row in csv.DictReader(io.StringIO(text))]
    else:
        answered = [line for line in text.splitlines() if "%" in line]
    assert len(answered) == 5
    assert any("caf\\xe9.jpg" in name for name in answered)
    assert len(list((tmp_path / "lit").iterdir())) == 5


def test_classes_and_files_of_any_name_become_a_dataset(tmp_path):
    source = tmp_path / "photographs"
    for number, name in enumerate(NAMES):
        for seed in range(8):
            save_picture(source / name / f"Gehölz {seed}.jpg", 10 * number + seed)
    flowerlib("latin-1", "folder", source, tmp_path / "flowers", "--size", 48)
    flowerlib("latin-1", "check", "--data", tmp_path / "flowers")
    classes = json.loads((tmp_path / "flowers/classes.json").read_text("utf-8"))
    assert classes == sorted(NAMES)
    with open(tmp_path / "flowers/files.csv", newline="", encoding="utf-8") as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    assert ids == {f"{name}/Gehölz {seed}.jpg" for name in NAMES for seed in range(8)}


def test_evaluate_takes_a_model_and_photographs_of_any_names(tmp_path, trained, photographs_of_val):
    model = shutil.copytree(trained / "model", tmp_path / "model")
    (model / "classes.json").write_text(json.dumps([*NAMES, "Ba$$in"], ensure_ascii=False), encoding="utf-8")
    for number, path in enumerate(sorted(photographs_of_val.iterdir())):
        target = tmp_path / "photographs" / NAMES[number % 3] / f"Gehölz {number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = flowerlib("c", "evaluate", tmp_path / "photographs", "--model", model, "--out", tmp_path / "out", "--json")
    report = json.loads((tmp_path / "out/evaluation.json").read_text("utf-8"))
    assert report == json.loads(done.stdout)
    assert report["num_photographs"] == 9
    assert {row["class"] for row in report["classes"]} >= set(NAMES)
    assert "Gehölz 0.jpg" in (tmp_path / "out/predictions.csv").read_text("utf-8")


@pytest.mark.parametrize("arguments", [("list",), ("evaluate", "--help")])
def test_what_is_printed_can_be_printed_anywhere(arguments):
    flowerlib("ascii", *arguments)


def test_an_error_about_any_name_is_one_line(tmp_path):
    done = flowerlib("ascii", "evaluate", tmp_path / "牡丹 Ö", "--model", tmp_path / "шиповник", code=1)
    assert len(done.stderr.splitlines()) == 1


SUBMIT = """
import numpy as np, sys
from pathlib import Path
from flowerlib import data, predictions
from flowerlib.predictions import Predictions
ids = data.decode_utf8(np.array(["Gehölz 0.jpg".encode(), b"caf\\xe9", "牡丹".encode()], object))
predicted = Predictions(np.eye(3, dtype=np.float32), np.arange(3), ids)
predictions.save(Path("predictions.npz"), predicted, predicted, ("Ölbaum", "牡丹", "rose"))
predictions.write_submission(predicted, Path("submission.csv"), count=3)
with np.load("predictions.npz") as arrays:
    assert arrays["test_ids"].tolist() == ids.tolist() and arrays["classes"][1] == "牡丹"
"""


@pytest.mark.parametrize("locale", ["ascii", "utf-8"])
def test_ids_in_predictions_and_submission_are_utf_8(locale, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SUBMIT, encoding="utf-8")
    place = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=os.environ | STRICT | LOCALES[locale] | place)
    assert done.returncode == 0
    lines = (tmp_path / "submission.csv").read_text("utf-8").splitlines()
    assert lines == ["id,label", "Gehölz 0.jpg,0", "caf\\xe9,1", "牡丹,2"]
