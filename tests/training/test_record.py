import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import asdict, replace

import h5py
import matplotlib.image
import numpy as np
import pytest
import tiny

from flowerlib import data, figures, predictions, training
from flowerlib.accelerator import Device, keras
from flowerlib.config import FlowersError
from flowerlib.predictions import metrics
from flowerlib.training import Features, record

CONFIG = training.TrainConfig(
    "10_tiny", "DenseNet201", image_size=16, batch_size=8, epochs=3, peak_lr=0.05, eval_size=24, steps=2,
    smoke_test=True,
)  # fmt: skip
HISTORY = {
    "loss": [1.2, 1.0, 0.9],
    "accuracy": [0.3, 0.5, 0.6],
    "val_loss": [1.1, 0.9, 0.95],
    "val_accuracy": [0.4, 0.7, 0.6],
    "val_macro_f1": [0.35, 0.66, 0.58],
    "seconds": [10.0, 2.0, 4.0],
    "compiled": [1.0, 0.0, 0.0],
}
STOPPED = {name: values[:2] for name, values in HISTORY.items()}


@pytest.fixture(scope="module")
def run(flowers):
    return training.Run(CONFIG, flowers, Device("cpu", "a test", 1, "tensorflow"))


@pytest.fixture(scope="module")
def predicted(flowers):
    """A model and its predictions for val and test."""
    model = tiny.network(4)
    batches = (data.eval_batches(flowers, split, 8) for split in ("val", "test"))
    return model, *(predictions.predict(model, each, 8, flip=True) for each in batches)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def left(run, predicted, tmp_path_factory):
    """A finished run: its folder, its record, its model and its predictions."""
    folder, (model, val, test) = tmp_path_factory.mktemp("work"), predicted
    model.compile("adam", "categorical_crossentropy")
    model.train_on_batch(np.zeros((2, 24, 24, 3)), np.eye(4)[:2])  # an optimizer's state, which must not be saved
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KERAS_HOME", str(folder))  # so that no pretrained weights are found
        saved = training.save(run, model, HISTORY, val, test)
    return folder / "runs/10_tiny", saved, model, val


def test_these_files_and_no_others_are_left(left):
    names = {path.relative_to(left[0]).as_posix() for path in left[0].rglob("*") if path.is_file()}
    model = {f"model/{name}" for name in ("model.keras", "classes.json", "preprocessing.json", "run.json")}
    assert names == {"run.json", "predictions.npz", "curves.png"} | model


def test_the_record_tells_what_was_run(left, flowers):
    folder, saved, _, val = left
    written = json.loads((folder / "run.json").read_text())
    assert written == json.loads(json.dumps(saved))
    expected = {
        "name": "10_tiny",
        "smoke_test": True,
        "backbone": "DenseNet201",
        "weights": "random",
        "fine_tuned": True,
        "parameters": 3 * 3 * 3 * 8 + 8 + 8 * 4 + 4,
        "trainable_parameters": 3 * 3 * 3 * 8 + 8 + 8 * 4 + 4,
        "layers": 2,
        "epochs": 3,
        "complete": True,
        "submission": "submission.csv",
        "first_epoch_seconds": 10.0,
        "seconds_per_epoch": 3.0,
        "best_epoch": 2,
        "history": HISTORY,
        "device": {"kind": "cpu", "name": "a test", "num_replicas": 1, "backend": "tensorflow"},
    }
    assert {name: written[name] for name in expected} == expected
    assert written["data"] == {
        "fingerprint": flowers.fingerprint, "image_size": 24, "num_classes": 4, "train": 23, "val": 9, "test": 7,
    }  # fmt: skip
    assert written["config"] == json.loads(json.dumps(asdict(CONFIG)))  # JSON has lists only
    assert written["versions"]["keras"] == keras.__version__
    assert written["val_accuracy"] == pytest.approx((val.probabilities.argmax(axis=1) == val.labels).mean())


def test_the_temperature_is_kept_with_its_calibration_error(run, left, predicted, folder):
    _, smoke_test, _, _ = left
    model, val, test = predicted
    error = metrics.expected_calibration_error(val.labels, val.probabilities)
    assert smoke_test["temperature"] == 1.0
    assert smoke_test["val_ece"] == smoke_test["val_ece_calibrated"] == error
    saved = training.save(run.with_config(smoke_test=False), model, HISTORY, val, test)
    assert saved["temperature"] == predictions.fit_temperature(val.probabilities, val.labels) != 1.0
    crossed = predictions.cross_calibrated(val.probabilities, val.labels)
    assert saved["val_ece_calibrated"] == metrics.expected_calibration_error(val.labels, crossed) != error
    np.testing.assert_array_equal(predictions.load(folder / "runs/10_tiny").val.probabilities, val.probabilities)
    preprocessing = json.loads((folder / "runs/10_tiny/model/preprocessing.json").read_text())
    assert preprocessing["temperature"] == saved["temperature"]


def test_the_model_folder_stands_alone(left, flowers):
    """Another process, without flowerlib, loads it and computes the same."""
    folder, _, model, _ = left
    images = next(iter(data.eval_batches(flowers, "val", 9)))[0].numpy()
    np.save(folder.parent / "images.npy", images)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.save('outputs.npy', model.predict_on_batch(np.load('../../images.npy')))\n"
        "assert 'flowerlib' not in sys.modules"
    )
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", script], cwd=folder / "model", env=environment, check=True)
    outputs = np.load(folder / "model/outputs.npy")
    (folder / "model/outputs.npy").unlink()
    np.testing.assert_allclose(outputs, np.asarray(model(images)), atol=1e-6)
    assert json.loads((folder / "model/classes.json").read_text()) == list(flowers.classes)
    preprocessing = json.loads((folder / "model/preprocessing.json").read_text())
    # The size of validation, not that of training.
    expected = {
        "stored_size": 24,
        "image_size": 24,
        "fit": "crop",
        "channels": "RGB",
        "pixels": [0, 255],
        "temperature": 1.0,
    }
    assert preprocessing == expected


def test_the_curves_are_a_picture(left):
    height, width, _ = matplotlib.image.imread(left[0] / "curves.png").shape
    assert width > 2 * height


def test_layers_within_layers_are_counted_and_empty_ones_are_not():
    block = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.ReLU(), keras.layers.Dense(4)])
    model = keras.Sequential([keras.Input((8,)), block, keras.layers.Dropout(0.5), keras.layers.BatchNormalization()])
    assert record.count_layers(model) == 3


def test_timing_leaves_out_every_epoch_that_compiled():
    """A run of two sessions: epochs 1 and 3 were the first of theirs."""
    assert record.timing([10.0, 2.0, 12.0, 4.0], [1, 0, 1, 0]) == {
        "epochs": 4, "first_epoch_seconds": 10.0, "seconds_per_epoch": 3.0,
    }  # fmt: skip
    assert record.timing([10.0], [1]) == {"epochs": 1, "first_epoch_seconds": 10.0, "seconds_per_epoch": None}


def test_the_saved_model_has_no_optimizer(left):
    with zipfile.ZipFile(left[0] / "model/model.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert "optimizer" not in weights
        assert json.loads(archive.read("config.json"))["compile_config"] == {}


def test_the_submission_lies_beside_the_runs(left, predicted):
    rows = (left[0].parents[1] / "submission.csv").read_text().splitlines()
    _, _, test = predicted
    assert rows == ["id,label", *(f"{name},{label}" for name, label in zip(test.ids, test.predicted, strict=True))]


def test_a_checkpoint_is_removed_when_the_run_is_whole(run, predicted, folder):
    checkpoint = training.resume_file(CONFIG)
    checkpoint.parent.mkdir(parents=True)
    model, val, test = predicted
    for history, whole in ((STOPPED, False), (HISTORY, True)):
        checkpoint.touch()
        assert training.save(run, model, history, val, test)["complete"] == whole
        assert checkpoint.exists() != whole


def test_what_took_long_is_kept_though_a_later_step_fails(run, predicted, folder, monkeypatch):
    """A figure cannot be drawn, or the features are of other images than the thumbnails."""
    model, val, test = predicted
    with monkeypatch.context() as patch:
        patch.setattr(figures, "curves", broken_figure)
        with pytest.raises(OSError, match="no font"):
            training.save(run, model, HISTORY, val, test)
    kept = folder / "runs/10_tiny"
    assert {path.name for path in kept.iterdir()} == {"predictions.npz", "model", "run.json"}
    assert (folder / "submission.csv").exists()
    shutil.rmtree(kept)
    other = Features(np.zeros((1, 23, 6), "float16"), np.zeros(23, int), np.full(23, "another"), num_original=1)
    with pytest.raises(FlowersError, match="of other images"):
        training.save(run, model, HISTORY, val, test, other)
    assert {path.name for path in kept.iterdir()} == {"predictions.npz", "model", "run.json", "curves.png"}


def test_a_full_disk_costs_nothing_of_the_run_that_was_there(run, predicted, folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    model, val, test = predicted
    training.save(run, model, HISTORY, val, test)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        training.save(run, model, HISTORY, val, test)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_of_two_that_save_at_once_the_second_waits_so_that_their_files_never_mix(run, predicted, folder, monkeypatch):
    model, val, test = predicted
    other, real = tiny.network(4, seed=7), record._save_model
    others = predictions.predict(other, data.eval_batches(run.flowers, "val", 8), 8, flip=True)
    second = threading.Thread(target=lambda: training.save(run, other, HISTORY, others, test))

    def save_model(saved, *arguments):
        if saved is model:  # the first one has left its predictions, and not yet its model
            second.start()
            second.join(0.5)
            assert second.is_alive()
        return real(saved, *arguments)

    monkeypatch.setattr(record, "_save_model", save_model)
    training.save(run, model, HISTORY, val, test)
    second.join()
    place = folder / "runs/10_tiny"
    network = keras.models.load_model(place / "model/model.keras")
    again = predictions.predict(network, data.eval_batches(run.flowers, "val", 8), 8, flip=True)
    np.testing.assert_allclose(predictions.load(place).val.probabilities, again.probabilities, atol=1e-5)
    np.testing.assert_allclose(others.probabilities, again.probabilities, atol=1e-5)


def broken_figure(*_, **__):
    raise OSError("no font")


def test_a_run_that_was_stopped_is_left_beside_a_longer_one(run, predicted, folder, capsys, monkeypatch):
    run = run.with_config(smoke_test=False)
    model, val, test = predicted
    whole = training.save(run, model, HISTORY, val, test)
    left = training.save(run, model, STOPPED, val, test)
    for name, saved in (("10_tiny", whole), ("10_tiny-unfinished", left)):
        assert json.loads((folder / f"runs/{name}/run.json").read_text()) == json.loads(json.dumps(saved))
    assert (left["name"], left["epochs"], whole["epochs"]) == ("10_tiny-unfinished", 2, 3)
    assert (left["submission"], whole["submission"]) == ("submission_unfinished.csv", "submission.csv")
    assert {path.name for path in folder.glob("*.csv")} == {"submission_unfinished.csv", "submission.csv"}
    assert "`runs/10_tiny` holds a longer run (3 epochs of 23 images" in capsys.readouterr().out
    least = training.save(run, model, {name: values[:1] for name, values in HISTORY.items()}, val, test)
    assert (least["name"], least["submission"]) == ("10_tiny-unfinished-2", "submission_unfinished_2.csv")
    assert json.loads((folder / "runs/10_tiny-unfinished/run.json").read_text())["epochs"] == 2
    monkeypatch.setenv("FLOWERS_FORCE", "1")
    assert training.save(run, model, STOPPED, val, test)["name"] == "10_tiny"


def test_the_headline_is_printed_and_marks_a_smoke_test_and_a_run_that_was_stopped(run, predicted, folder, capsys):
    model, val, test = predicted
    saved = training.save(run, model, HISTORY, val, test)
    scores = val.scores()
    result = "10_tiny: macro F1 {macro_f1:.4f}, accuracy {accuracy:.4f}, log loss {loss:.4f} on val".format(**scores)
    assert capsys.readouterr().out.splitlines() == [f"SMOKE TEST, ignore: {result} after 3 epochs"]
    assert record.headline(saved | {"smoke_test": False}) == f"{result} after 3 epochs"
    stopped = saved | {"smoke_test": False, "complete": False, "epochs": 2}
    assert record.headline(stopped) == f"{result} after 2 epochs of 3: it was stopped"


def test_timings_of_several_devices_stand_side_by_side(run, tmp_path, monkeypatch):
    (tmp_path / "input/another-kernel").mkdir(parents=True)
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path))
    monkeypatch.chdir(tmp_path / "input/another-kernel")
    training.save_timing(run, [10.0, 2.0, 4.0])
    monkeypatch.chdir(tmp_path)
    training.save_timing(replace(run, device=Device("tpu", "TPU v5 lite", 8, "jax")), [30.0, 1.0])
    table = training.find_timings()
    assert table.sort_values("device").to_dict("records") == [
        {
            "device": "1 x CPU (a test), tensorflow",
            "seconds_per_epoch": 3.0,
            "compile_seconds": 7.0,
            "images_per_second": 2 * 8 / 3,
            "smoke_test": True,
            "train": 23,
            "image_size": 16,
            "batch_size": 8,
        },
        {
            "device": "8 x TPU (TPU v5 lite), jax",
            "seconds_per_epoch": 1.0,
            "compile_seconds": 29.0,
            "images_per_second": 16.0,
            "smoke_test": True,
            "train": 23,
            "image_size": 16,
            "batch_size": 8,
        },
    ]
