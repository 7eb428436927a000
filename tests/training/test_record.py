import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import h5py
import matplotlib.image
import numpy as np
import pytest
import tiny

from flowerlib import data, predictions, training
from flowerlib.accelerator import Device, keras
from flowerlib.config import FlowersError
from flowerlib.training import features, record

CPU = Device("cpu", "a test", 1, "tensorflow")
RUN = training.TrainConfig(
    "10_tiny", "DenseNet201", True, 16, 8, 3, 1, 0.05, 0.01, 0.1, 0.0, "none", 0, smoke_test=True, steps=2, eval_size=24
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


@pytest.fixture(scope="module")
def left(flowers, tmp_path_factory):
    """A finished run: its folder, its record, its model and its predictions."""
    folder = tmp_path_factory.mktemp("work")
    model = tiny.network(4)
    model.compile("adam", "categorical_crossentropy")
    model.fit(np.zeros((2, 24, 24, 3)), np.eye(4)[:2], verbose=0)  # an optimiser's state, which must not be saved
    val, test = (
        predictions.predict(model, data.eval_batches(flowers, split, 8), 8, mirror=True) for split in ("val", "test")
    )
    before = os.getcwd()
    os.chdir(folder)
    try:
        saved = record.save_run(RUN, model, HISTORY, flowers=flowers, device=CPU, weights="random", val=val, test=test)
    finally:
        os.chdir(before)
    return folder / "runs/10_tiny", saved, model, val


def test_these_files_and_no_others_are_left(left):
    names = {path.relative_to(left[0]).as_posix() for path in left[0].rglob("*") if path.is_file()}
    model = {f"model/{name}" for name in ("model.keras", "classes.json", "preprocessing.json", "run.json")}
    assert names == {"run.json", "predictions.npz", "curves.png"} | model


def test_the_record_says_what_was_run(left, flowers):
    folder, saved, _, val = left
    written = json.loads((folder / "run.json").read_text())
    assert written == saved
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
    assert written["versions"]["keras"] == keras.__version__
    assert written["val_accuracy"] == pytest.approx((val.probabilities.argmax(axis=1) == val.labels).mean())


def test_the_model_folder_stands_alone(left, flowers):
    """Another process, without flowerlib, loads it and says the same."""
    folder, _, model, _ = left
    images = next(iter(data.eval_batches(flowers, "val", 9)))[0].numpy()
    np.save(folder.parent / "images.npy", images)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.save('said.npy', model.predict_on_batch(np.load('../../images.npy')))\n"
        "assert 'flowerlib' not in sys.modules"
    )
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", script], cwd=folder / "model", env=environment, check=True)
    said = np.load(folder / "model/said.npy")
    (folder / "model/said.npy").unlink()
    np.testing.assert_allclose(said, np.asarray(model(images)), atol=1e-6)
    assert json.loads((folder / "model/classes.json").read_text()) == list(flowers.classes)
    preprocessing = json.loads((folder / "model/preprocessing.json").read_text())
    # The size at which it is judged, not the one it was trained at.
    said = {"stored_size": 24, "image_size": 24, "fit": "crop", "channels": "RGB", "pixels": [0, 255]}
    assert preprocessing == said


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


def test_the_saved_model_has_no_optimiser(left):
    with zipfile.ZipFile(left[0] / "model/model.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert "optimizer" not in weights
        assert json.loads(archive.read("config.json"))["compile_config"] == {}


def test_only_a_whole_run_gives_up_what_a_resume_needs(flowers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny.network(4)
    said = predictions.predict(model, data.eval_batches(flowers, "val", 8), 8)
    kept = training.resume_file(RUN)
    kept.parent.mkdir(parents=True)
    for history, whole in (({name: values[:2] for name, values in HISTORY.items()}, False), (HISTORY, True)):
        kept.touch()
        saved = record.save_run(RUN, model, history, flowers=flowers, device=CPU, weights="random", val=said, test=said)
        assert saved["complete"] == whole
        assert kept.exists() != whole


def save(model, flowers, said, history=HISTORY, run=RUN, **more):
    return record.save_run(
        run, model, history, flowers=flowers, device=CPU, weights="random", val=said, test=said, **more
    )


@pytest.fixture
def said(flowers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return predictions.predict(tiny.network(4), data.eval_batches(flowers, "val", 8), 8)


def test_what_took_long_is_kept_though_a_later_step_fails(flowers, said, tmp_path, monkeypatch):
    """A figure cannot be drawn, or the features are of other images than the thumbnails."""
    curves = record.plots.curves
    monkeypatch.setattr(record.plots, "curves", broken_figure)
    with pytest.raises(OSError, match="no font"):
        save(tiny.network(4), flowers, said)
    monkeypatch.setattr(record.plots, "curves", curves)
    kept = tmp_path / "runs/10_tiny"
    assert {path.name for path in kept.iterdir()} == {"predictions.npz", "model", "run.json"}
    shutil.rmtree(kept)
    other = features.Features(np.zeros((1, 23, 6), "float16"), np.zeros(23, int), np.full(23, "another"), plain=1)
    with pytest.raises(FlowersError, match="of other images"):
        save(tiny.network(4), flowers, said, seen=other)
    assert {path.name for path in kept.iterdir()} == {"predictions.npz", "model", "run.json", "curves.png"}


def broken_figure(*_, **__):
    raise OSError("no font")


def test_a_run_that_was_stopped_is_left_beside_a_longer_one(flowers, said, tmp_path, capsys, monkeypatch):
    run = replace(RUN, smoke_test=False)
    whole = save(tiny.network(4), flowers, said, run=run)
    stopped = {name: values[:2] for name, values in HISTORY.items()}
    left = save(tiny.network(4), flowers, said, stopped, run)
    assert json.loads((tmp_path / "runs/10_tiny/run.json").read_text()) == whole
    assert json.loads((tmp_path / "runs/10_tiny-unfinished/run.json").read_text()) == left
    assert (left["name"], left["epochs"], whole["epochs"]) == ("10_tiny-unfinished", 2, 3)
    assert "`runs/10_tiny` holds a longer run (3 epochs of 23 images" in capsys.readouterr().out
    monkeypatch.setenv("FLOWERS_FORCE", "1")
    assert save(tiny.network(4), flowers, said, stopped, run)["name"] == "10_tiny"


def test_the_headline_marks_a_smoke_test(left):
    assert record.headline(left[1]).startswith("SMOKE TEST, no result: 10_tiny: macro F1 0.")
    assert record.headline(left[1] | {"smoke_test": False}).startswith("10_tiny: macro F1 0.")


def test_timings_of_several_devices_stand_side_by_side(flowers, tmp_path, monkeypatch):
    (tmp_path / "input/another-kernel").mkdir(parents=True)
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path))
    monkeypatch.chdir(tmp_path / "input/another-kernel")
    record.save_timing(RUN, [10.0, 2.0, 4.0], flowers=flowers, device=CPU)
    tpu = Device("tpu", "TPU v5 lite", 8, "jax")
    monkeypatch.chdir(tmp_path)
    record.save_timing(RUN, [30.0, 1.0], flowers=flowers, device=tpu)
    table = record.find_timings()
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
