"""Other formats: other programs give the same answers from the files alone."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from flowerlib.config import FlowersError
from flowerlib.photos import classification, export

# What a user of the file would write, in a process that has no flowerlib.
READERS = {
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(folder + "/model.onnx")
probabilities = session.run(None, {session.get_inputs()[0].name: pixels})[0]
""",
    "litert": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(folder + "/model.tflite")
runner = interpreter.get_signature_runner()
(name,) = runner.get_input_details()
probabilities = np.concatenate([*runner(**{name: pixels}).values()])
""",
    "savedmodel": """
import tensorflow as tf
loaded = tf.saved_model.load(folder + "/savedmodel")
(probabilities,) = loaded.signatures["serving_default"](tf.constant(pixels)).values()
""",
}


@pytest.mark.parametrize("export_format", READERS)
def test_another_program_gives_the_same_answers(trained, photographs_of_val, tmp_path, export_format):
    table = export.export(trained, export_format, [photographs_of_val], tmp_path / "out")
    assert "on 9 images" in table
    model = classification.load(trained)
    pixels = np.stack([model.pixels(path) for path in sorted(photographs_of_val.iterdir())]).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    script = f"""
import sys
import numpy as np
folder, pixels = sys.argv[1], np.load(sys.argv[2])
{READERS[export_format]}
assert "flowerlib" not in sys.modules
np.save(sys.argv[3], probabilities)
"""
    command = [sys.executable, "-c", script, tmp_path / "out", tmp_path / "pixels.npy", tmp_path / "probabilities.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"), model.probabilities(pixels, mirror=False), atol=1e-4
    )
    assert json.loads((tmp_path / "out/classes.json").read_text()) == list(model.classes)
    assert json.loads((tmp_path / "out/preprocessing.json").read_text())["image_size"] == 24


def test_a_format_that_answers_otherwise_is_not_written(trained, photographs_of_val, tmp_path, monkeypatch):
    def wrong(model, folder):
        (folder / "model.onnx").write_bytes(b"")
        return lambda pixels: model.predict_on_batch(pixels) + 2e-4

    monkeypatch.setitem(export._EXPORTERS, "onnx", wrong)
    with pytest.raises(FlowersError, match=r"differs from Keras by up to 2\.0e-04"):
        export.export(trained, "onnx", [photographs_of_val], tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_it_is_compared_on_its_training_pictures_unless_others_are_named(trained, tmp_path):
    assert "on 23 images" in export.export(trained, "savedmodel", out=tmp_path / "out")


def test_without_pictures_it_says_how_to_name_some(trained, tmp_path):
    for path in (trained / "model").iterdir():
        if path.name != "gallery.npz":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FlowersError, match="--images FOLDER"):
        export.export(tmp_path, "onnx")


@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_that_scales_is_exported_too(tmp_path, nested):
    """tf2onnx would take its mean and variance for inputs of the model, at whatever depth it is."""
    scaling = keras.layers.Normalization()
    scaling.adapt(np.random.default_rng(0).normal(100, 50, (64, 3)))
    inner = [scaling, keras.layers.Dense(2, activation="softmax")]
    head = [keras.Sequential([keras.Sequential(inner)])] if nested else inner
    model = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.GlobalAveragePooling2D(), *head])
    pixels = np.random.default_rng(1).uniform(0, 255, (5, 24, 24, 3)).astype(np.float32)
    before = model.predict_on_batch(pixels)
    np.testing.assert_allclose(export._export_onnx(model, tmp_path)(pixels), before, atol=1e-5)
