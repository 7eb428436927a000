"""What a run of version 0.1 left (tests/versions/run-0.1, as that version wrote it) is read as if it were of today."""

import json
import shutil
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from packaging.version import Version
from tiny import CPU

from flowerlib import evaluation, predictions, training
from flowerlib.accelerator import keras
from flowerlib.config import RENAMED_KEYS, FlowersError, read_record
from flowerlib.photos import classification

LEFT = Path(__file__).parent / "versions/run-0.1"
SAVED_BY = Version(json.loads(ZipFile(LEFT / "model/model.keras").read("metadata.json"))["keras_version"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with that run in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(LEFT, tmp_path / "runs/10_tiny")
    return tmp_path


def rewrite(place, **changes):
    for path in (place / "runs/10_tiny").rglob("*.json"):
        if path.name in ("run.json", "timing.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_keys_get_their_present_names_at_every_depth_and_values_stay():
    written, read = json.loads((LEFT / "run.json").read_text()), read_record(LEFT / "run.json")
    assert set(RENAMED_KEYS) <= written.keys() | written["choices"].keys()  # each renamed key stands in this record
    assert list(read) == [RENAMED_KEYS.get(key, key) for key in written]
    assert (read["smoke_test"], read["fine_tuned"]) == (False, True)
    assert read["config"] == {
        "name": "10_tiny", "backbone": "DenseNet201", "fine_tune": True, "image_size": 24, "batch_size": 8, "epochs": 3,
        "warmup_epochs": 1, "peak_lr": 0.05, "weight_decay": 0.01, "label_smoothing": 0.1, "dropout": 0.3,
        "mix": "cutmix", "seed": 0, "smoke_test": False, "steps": None, "eval_size": 24, "head_lr_multiplier": 10.0,
        "mix_probability": 0.5, "first_trainable_layer": "block3_expand_conv",
    }  # fmt: skip
    training.TrainConfig(**read["config"])  # each is a field of today
    for name in ("data", "device", "versions", "history", "val_macro_f1"):
        assert read[name] == written[name]


def test_it_enters_the_recap(place):
    [run] = evaluation.aligned(predictions.find_runs())
    assert (run.classes, len(run.val.ids), len(run.test.ids)) == (("daisy", "iris", "rose", "lotus"), 9, 7)
    [row] = evaluation.recap_table([run]).to_dict("records")
    assert row == {
        "name": "10_tiny", "smoke_test": False, "val_macro_f1": 0.25, "val_accuracy": 2 / 9,
        "val_loss": 1.322757363319397, "seconds_per_epoch": 3.0, "epochs": 3, "weights": "pretrained",
        "parameters": 260, "layers": 2, "trained": 1.0, "image_size": 24, "device": "1 x cpu",
    }  # fmt: skip
    scores = {f"val_{name}": value for name, value in run.val.scores().items()}
    assert scores == pytest.approx({name: row[name] for name in scores})


def test_a_smoke_test_of_then_is_one_now(place):
    rewrite(place, name="10_tiny-rehearsal", rehearsal=True)
    shutil.copytree(LEFT, place / "runs/11_whole")
    assert [run.name for run in predictions.find_runs()] == ["10_tiny"]
    shutil.rmtree(place / "runs/11_whole")
    [run] = predictions.find_runs()
    assert evaluation.recap_table([run])["smoke_test"].tolist() == [True]


def test_its_timing_stands_beside_those_of_today(place):
    [row] = training.find_timings().to_dict("records")
    assert row == {
        "device": "1 x CPU (a test), tensorflow", "seconds_per_epoch": 3.0, "compile_seconds": 7.0,
        "images_per_second": 16 / 3, "smoke_test": False, "train": 23, "image_size": 24, "batch_size": 8,
    }  # fmt: skip


@pytest.mark.skipif(Version(keras.__version__) < SAVED_BY, reason="Keras reads no model that a newer one has saved")
def test_its_model_is_loaded_and_predicts_what_it_did(photographs_of_val):
    classifier = classification.load(LEFT)
    assert classifier.classes == ("daisy", "iris", "rose", "lotus")
    assert (classifier.stored_size, classifier.image_size, classifier.fit) == (24, 24, "crop")
    assert classifier.temperature == 1.0  # it was not calibrated
    assert (classifier.record["name"], classifier.record["smoke_test"]) == ("10_tiny", False)
    val = predictions.load(LEFT).val
    images = np.stack([classifier.pixels(photographs_of_val / f"{name}.jpg") for name in val.ids])
    model = keras.models.load_model(LEFT / "model/model.keras", compile=False)
    expected = (model.predict_on_batch(images) + model.predict_on_batch(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(classifier.probabilities(images), expected, atol=1e-6)
    np.testing.assert_allclose(val.probabilities, expected, atol=1e-3)  # JPEGs may be encoded otherwise by now


def test_it_is_not_replaced_by_a_shorter_run(place, flowers):
    config = training.TrainConfig("10_tiny", "DenseNet201", image_size=24, batch_size=8, epochs=2)
    with pytest.raises(FlowersError, match=r"holds a longer run \(3 epochs of 23 images, macro F1 0.2500 on val\)"):
        training.fit(training.Run(config, flowers, CPU), None, None)
