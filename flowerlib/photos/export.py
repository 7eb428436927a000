"""A trained model in the formats that other programs run, each held against the original."""

import io
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError, atomic_write, suppress_native_stderr
from flowerlib.parallel import num_cores
from flowerlib.photos import classification
from flowerlib.photos.classification import Classifier

Format = Literal["onnx", "litert", "savedmodel"]
Runner = Callable[[np.ndarray], np.ndarray]  # pixels (B, S, S, 3) float32 -> probabilities (B, num_classes)
TOLERANCE = 1e-4  # of a probability
MOST_COMPARED = 100  # images
BATCH = 32  # images together, in the comparison and in the timing
ROUNDS = 5  # of the timing; the median is told


def export(run: Path, to: Format, images: Sequence[Path] = (), out: Path | None = None) -> str:
    """Write a run's model in another format; return in a few lines how it compares with the original.

    Args:
        run: `runs/<name>`, or its folder `model`.
        to: `onnx` (ONNX Runtime), `litert` (formerly TensorFlow Lite) or `savedmodel` (TensorFlow).
        images: files, or folders with files, to compare on, of which 100 are used; the thumbnails of its training
            pictures unless given.
        out: the folder to write, with `classes.json` and `preprocessing.json`; `<run>/export/<to>` unless given.

    Raises:
        FlowersError: `out` holds something, a package is missing, the model or an image cannot be read, or a
            probability differs from the original's by more than 1e-4. Then nothing is written.
    """
    if to not in get_args(Format):
        raise FlowersError(f"`to` (={to}) must be one of {', '.join(get_args(Format))}")
    if out and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowersError(f"`{out}` holds something already; name another folder, or remove it first")
    classifier = classification.load(run)
    original = partial(classifier.probabilities, mirror=False)
    pixels = _pixels(classifier, images)
    expected = _by_batches(original, pixels)
    out = out or run / "export" / to
    with atomic_write(out) as folder:
        folder.mkdir()
        with suppress_native_stderr():
            runner = _EXPORTERS[to](classifier.model, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        largest = float(abs(_by_batches(runner, pixels) - expected).max())
        if not largest <= TOLERANCE:
            raise FlowersError(f"{to} differs from Keras by up to {largest:.1e} in a probability; nothing was written")
        model = classification.model_folder(run)
        for name in ("classes.json", "preprocessing.json"):
            shutil.copy(model / name, folder / name)
    rows = [("", to, "Keras"), ("megabytes", f"{size / 1e6:.1f}", f"{_bytes(model) / 1e6:.1f}")]
    for count in (BATCH, 1):
        speeds = [f"{_speed(each, pixels[:count]):.0f}" for each in (runner, original)]
        rows.append((f"images/s, {min(count, len(pixels))} at a time", *speeds))
    table = "\n".join(f"{what:<24}{one:>12}{other:>10}" for what, one, other in rows)
    return f"{out}: equal to within {largest:.1e} in any probability, on {len(pixels)} images\n{table}"


def _bytes(model: Path) -> int:
    return (model / "model.keras").stat().st_size


def _pixels(classifier: Classifier, images: Sequence[Path]) -> np.ndarray:
    """Images `(N, S, S, 3)` float32 as the model sees them."""
    files: list[Path | io.BytesIO]
    if images:
        files = classification.find_images(images)[:MOST_COMPARED]
    elif classifier.gallery:
        files = [io.BytesIO(thumbnail) for thumbnail in classifier.gallery.thumbnails[:MOST_COMPARED]]
    else:
        raise FlowersError("this run kept no pictures to compare on; name some: --images FOLDER")
    pixels = []
    for file in files:
        try:
            pixels.append(classifier.pixels(file))
        except FlowersError as error:
            raise FlowersError(f"`{file}` {error}") from None
    return np.stack(pixels).astype(np.float32)


def _by_batches(runner: Runner, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([runner(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)])


def _speed(runner: Runner, pixels: np.ndarray) -> float:
    """Images a second, the median of a few rounds after one to warm up."""
    runner(pixels)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        runner(pixels)
        seconds.append(time.perf_counter() - start)
    return len(pixels) / float(np.median(seconds))


def _onnx(model: keras.Model, folder: Path) -> Runner:
    try:
        import onnxruntime
        import tf2onnx  # noqa: F401 - Keras calls it
    except ImportError as error:
        raise _missing(error) from None
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):  # tf2onnx takes tensors that are no variables for inputs
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    model(keras.Input(model.input_shape[1:]))  # Keras wants a model that was called
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _litert(model: keras.Model, folder: Path) -> Runner:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise _missing(error) from None
    model.export(str(folder / "model.tflite"), format="litert", verbose=False)  # Keras 3.13 takes no Path
    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=num_cores())
    place, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(pixels: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(place, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(answer)

    return run


def _savedmodel(model: keras.Model, folder: Path) -> Runner:
    model.export(str(folder / "savedmodel"), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(folder / "savedmodel")
    return lambda pixels: loaded.serve([tf.constant(pixels)]).numpy()


def _missing(error: ImportError) -> FlowersError:
    return FlowersError(f"{error.name} is missing: pip install '.[export]' in flowerlib's folder")


_EXPORTERS: dict[Format, Callable[[keras.Model, Path], Runner]] = {
    "onnx": _onnx,
    "litert": _litert,
    "savedmodel": _savedmodel,
}
