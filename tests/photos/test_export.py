"""Other formats: other programs give the same answers from the files alone."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from made_photographs import photographs
from test_preprocess import P3, profile

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
loaded = tf.saved_model.load(folder + "/savedmodel/1")
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
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), model.outputs(pixels), atol=1e-4)
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


RECIPES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/export.md").read_text(), re.DOTALL)
WITHOUT_FLOWERLIB = """
import shutil, sys
from pathlib import Path

import numpy as np

sys.modules["flowerlib"] = None  # to import it is an error, wherever it is installed
recipe, *files = sys.argv[1:]
means, views = [], []
for file in files:
    shutil.copy(file, "rose.jpg")
    exec(recipe, names := {})
    means.append(names["probabilities"])
    views.append(names["preprocess"]("rose.jpg"))
np.savez("followed.npz", means=means, views=views)
"""


def follow(recipe, folder, files):
    """What a recipe of the documentation gives for files, in the folder of an export and without flowerlib.

    Returns:
        Means `(N, num_classes)` and views `(N, 2, S, S, 3)`.
    """
    command = [sys.executable, "-c", WITHOUT_FLOWERLIB, recipe, *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "followed.npz") as followed:
        return followed["means"], followed["views"]


def exported(trained, folder, export_format, images, stored_size, image_size, fit):
    """Export a copy of a run that was trained on squares of another size."""
    shutil.copytree(trained, folder / "run")
    settings = {"stored_size": stored_size, "image_size": image_size, "fit": fit, "temperature": 0.6}
    (folder / "run/model/preprocessing.json").write_text(json.dumps(settings))
    export.export(folder / "run", export_format, [images], folder / "out")
    return folder / "out"


@pytest.mark.parametrize("settings", [(24, 24, "crop"), (192, 224, "pad"), (192, 150, "crop")])
def test_the_recipe_gives_what_predict_gives_for_every_kind_of_photograph(
    trained, photographs_of_val, tmp_path, settings
):
    folder = exported(trained, tmp_path, "onnx", photographs_of_val, *settings)
    (tmp_path / "photographs").mkdir()
    for name, content in photographs(profile(P3, 2.2, "Display P3"), settings[0]).items():
        (tmp_path / "photographs" / name).write_bytes(content)
    files = sorted((tmp_path / "photographs").iterdir())
    means, views = follow(RECIPES[0], folder, files)
    classifier = classification.load(tmp_path / "run")
    pixels = np.stack([classifier.pixels(path) for path in files])
    assert len(pixels) >= 50
    np.testing.assert_array_equal(views[:, 0], pixels)
    np.testing.assert_array_equal(views[:, 1], pixels[:, :, ::-1])
    # From the same pixels two programs give the same, but for the order in which they add up in float32.
    np.testing.assert_allclose(means, classifier.probabilities(pixels), atol=1e-4)
    assert np.ptp(means, axis=0).max() > 0.05  # the photographs do differ


@pytest.mark.parametrize(("recipe", "export_format"), [(RECIPES[1], "litert"), (RECIPES[2], "savedmodel")])
def test_the_recipes_of_the_other_formats_give_it_too(trained, photographs_of_val, tmp_path, recipe, export_format):
    folder = exported(trained, tmp_path, export_format, photographs_of_val, 24, 36, "crop")
    files = sorted(photographs_of_val.iterdir())[:3]
    means, views = follow(recipe, folder, files)
    classifier = classification.load(tmp_path / "run")
    np.testing.assert_array_equal(views[:, 0], [classifier.pixels(path) for path in files])
    np.testing.assert_allclose(means, [row for _, row in classification.classify(classifier, files)], atol=1e-4)


def test_the_copy_beside_a_model_takes_open_files_and_refuses_what_predict_refuses(trained, tmp_path):
    export.export(trained, "savedmodel", out=tmp_path / "out")
    script = """
import io, sys
sys.modules["flowerlib"] = None
import numpy as np, PIL
from preprocess import PhotographError, preprocess
from pathlib import Path
photograph = Path(sys.argv[1])
views = preprocess(photograph)
assert (views.shape, views.dtype) == ((2, 24, 24, 3), np.float32)
assert (views == preprocess(io.BytesIO(photograph.read_bytes()))).all()
assert (views[0] == views[1][:, ::-1]).all()
try:
    preprocess(io.BytesIO(b"no image"))
except PIL.UnidentifiedImageError:
    print("refused")
"""
    (tmp_path / "a.png").write_bytes(photographs(b"", 24)["alpha.png"])
    command = [sys.executable, "-c", script, tmp_path / "a.png"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
