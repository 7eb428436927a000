"""Notebooks whose long step is traced instead of computed: whole ones, and one of each kind of fault."""

import importlib.util
import json
import subprocess
import sys

import clone
import nbformat
import pytest

from flowerlib.config import FlowersError
from flowerlib.kaggle import preflight
from flowerlib.kaggle.chips import CHIPS

NOTEBOOK = """
import jax
import keras
import tensorflow as tf
from jax.experimental import pallas
SIZE, BATCH, CLASSES = 32, 16, 5
def dataset(batch=BATCH, drop=True):
    images = tf.data.Dataset.from_tensors((tf.zeros((SIZE, SIZE, 3), tf.uint8), tf.zeros(CLASSES)))
    return images.repeat().take(100).batch(batch, drop_remainder=drop)
def model(*layers):
    last = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES, activation="softmax")]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(8, 3, padding="same"), *layers, *last])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return model
class Layer(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.call = function
class SameShape(Layer):
    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)
def host(x):
    constant = jax.lax.stop_gradient(x)
    return x + jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), constant)
def on_a_cpu(x):
    values = jax.numpy.linalg.eigvals(jax.lax.stop_gradient(x[0, :, :, 0].astype("float32")))
    return x + values.real.mean().astype(x.dtype)
def kernel(x):
    def copy(source, target):
        target[...] = source[...]
    return x + pallas.pallas_call(copy, jax.ShapeDtypeStruct(x.shape, x.dtype))(jax.lax.stop_gradient(x))
"""
CASES = {
    "whole": "model().fit(dataset())",
    "shape": "model().fit(dataset(drop=False))",
    "divide": "model().fit(dataset(12))",
    "host": "model(Layer(host)).fit(dataset())",
    "gather": "model(Layer(lambda x: keras.ops.take(x, [3, 1, 2], axis=1))).fit(dataset())",
    "pallas": "model(SameShape(kernel)).fit(dataset())",
    "platform": "model(Layer(on_a_cpu)).fit(dataset())",
    "attention": """
inputs = keras.Input((SIZE, SIZE, 3))
attended = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
outputs = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(attended))
attending = keras.Model(inputs, outputs)
attending.compile("adam", "mse")
attending.fit(dataset())
""",
    "wrong": "model().fit(datasett())",
    "nothing": "model()",
}

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from flowerlib.kaggle.chips import CHIPS
from flowerlib.kaggle.tracing import Tracer, execute
found = {}
for path in map(Path, sys.argv[2:]):
    tracer = Tracer(CHIPS["TpuV5E8"])
    error = execute(path, tracer)
    found[path.stem] = {"steps": [asdict(step) for step in tracer.steps], "error": error}
Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what is found in each case, all traced in one process."""
    folder = tmp_path_factory.mktemp("notebooks")
    paths = []
    for name, step in CASES.items():
        cells = [nbformat.v4.new_markdown_cell("# A notebook"), *map(nbformat.v4.new_code_cell, (NOTEBOOK, step))]
        paths.append(folder / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths[-1])
    environment = preflight.environment("TpuV5E8", "nowhere")
    command = [sys.executable, "-c", SCRIPT, folder / "found.json", *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def test_a_training_step_is_traced_with_its_memory(found):
    assert found["whole"]["error"] is None
    [step] = found["whole"]["steps"]
    weights = (3 * 3 * 3 * 8 + 8) + (8 * 5 + 5)
    assert step["name"] == "training, 32 px"
    assert step["batch"] == 16
    assert step["problems"] == []
    assert step["weights"] in range(4 * weights, 4 * weights + 64)
    assert step["optimizer"] in range(4 * 2 * weights, 4 * 2 * weights + 64)  # two moments, a count, a rate
    assert step["gradients"] == 4 * weights
    assert step["inputs"] == 2 * (2 * 32 * 32 * 3 + 2 * 5 * 4)  # uint8 images, two on each of the eight chips
    maps = 2 * 32 * 32 * 8 * 2  # in bfloat16
    assert step["activations"] == pytest.approx(2 * maps, rel=0.5)  # of the convolution, and their gradient


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", "no fixed shape, (None, 32, 32, 3)"),
        ("divide", "a batch of 12 images cannot be divided among 8 chips"),
        ("host", "`pure_callback` calls Python on the host"),
        ("gather", "a gather over images (2, 32, 32, 8)"),
        ("pallas", "a Pallas kernel"),
        ("platform", "cannot be compiled for tpu: "),
        ("attention", "keras.config.disable_flash_attention()"),
    ],
)
def test_what_is_wrong_with_a_step_is_told(found, case, words):
    [step] = found[case]["steps"]
    assert any(words in problem for problem in step["problems"])


def test_a_notebook_that_stops_before_is_told_with_its_cell(found):
    assert found["wrong"] == {"steps": [], "error": "cell 2 stops with NameError: name 'datasett' is not defined"}


def test_a_notebook_without_a_long_step_has_none(found):
    assert found["nothing"] == {"steps": [], "error": None}


def test_the_compiler_is_asked_for_where_it_is_a_tpus(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlowersError, match="--compile needs libtpu"):
        preflight.preflight(["03"], compiles=True)
    with pytest.raises(FlowersError, match="leave out --compile for Tesla T4"):
        preflight.preflight(["03"], accelerator="NvidiaTeslaT4", compiles=True)


def test_chips_that_are_not_known_are_told():
    with pytest.raises(FlowersError, match="the chips of NvidiaH100 are not known; name one of TpuV5E8, TpuV6E8"):
        preflight.preflight(["03"], accelerator="NvidiaH100")


CHIP = CHIPS["TpuV5E8"]
STEP = {"name": "training", "batch": 128, "weights": 2**30, "optimizer": 2**31, "gradients": 2**30, "inputs": 0}
STEP |= {"activations": 8 * 2**30, "compiled": 0, "problems": []}


def test_the_largest_batch_is_the_one_that_still_fits():
    assert preflight.needed(STEP) == 12 * 2**30
    assert preflight.largest_batch(STEP, CHIP) == 23  # half a GiB an image, in 11.75 GiB
    fitting = STEP | {"activations": 23 * 2**29}
    assert preflight.needed(fitting) <= CHIP.memory < preflight.needed(fitting) + 2**29


def test_what_the_compiler_counts_takes_the_place_of_the_estimate():
    compiled = STEP | {"compiled": 5 * 2**30, "inputs": 2**30}
    assert preflight.needed(compiled) == 5.5 * 2**30  # the inputs of the step itself are in it, and one batch waits


def test_a_step_that_is_too_large_is_a_problem_that_names_the_batch_that_fits():
    assert preflight.problems_of(STEP, CHIP) == []
    [problem] = preflight.problems_of(STEP | {"activations": 16 * 2**30}, CHIP)
    assert "needs about 20.0 GiB of a chip's 15.8" in problem
    assert "11 images a chip" in problem


def test_the_command_traces_a_notebook_of_the_series(flowers, tmp_path):
    done = clone.flowerlib(
        clone.make(tmp_path / "clone"), "kaggle", "preflight", "03", FLOWERS_DATA=flowers.root, COLUMNS="120"
    )
    assert done.returncode == 0, done.stderr
    assert "No problems found." in done.stdout
    assert "training, 192 px" in done.stdout
    assert "prediction, 224 px" in done.stdout
