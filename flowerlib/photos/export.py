"""Export a trained model to ONNX, LiteRT or SavedModel, and verify its probabilities against the original."""

import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError, atomic_write, suppress_native_stderr
from flowerlib.parallel import num_cores
from flowerlib.photos import classification, preprocess
from flowerlib.photos.classification import Classifier

ExportFormat = Literal["onnx", "litert", "savedmodel"]
Runner = Callable[[np.ndarray], np.ndarray]  # pixels (B, S, S, 3) float32 -> probabilities (B, num_classes)
MAX_DIFFERENCE = 1e-4  # of a probability
MAX_COMPARED = 100  # images
BATCH_SIZE = 32  # in the comparison and in the timing
NUM_TIMED_RUNS = 5  # after one to warm up; the median is reported


def export(run: Path, export_format: ExportFormat, images: Sequence[Path] = (), out: Path | None = None) -> str:
    """Export the model of a run; return a table of size and speed beside the original's.

    Args:
        run: `runs/<name>`, or its folder `model`.
        export_format: `onnx` (ONNX Runtime), `litert` (formerly TensorFlow Lite) or `savedmodel` (TensorFlow).
        images: files, or folders with files, to compare on; at most 100 are used. The thumbnails of its training
            images unless given.
        out: the folder to write, with `classes.json`, `preprocessing.json` and `preprocess.py`, which makes the model's
            input of a photograph; `<run>/export/<format>` unless given.

    Raises:
        FlowersError: `out` holds something, a package is missing, the model or an image cannot be read, or a
            probability differs from the original's by more than 1e-4. Then nothing is written.
    """
    if export_format not in get_args(ExportFormat):
        raise FlowersError(f"`format` (={export_format}) must be one of {', '.join(get_args(ExportFormat))}")
    if out and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowersError(f"`{out}` holds something already; name another folder, or remove it first")
    classifier = classification.load(run)
    pixels = _comparison_images(classifier, images)
    expected = _predict(classifier.outputs, pixels)  # before an exporter changes the model
    out = out or (run.parent if run.is_file() else run) / "export" / export_format
    model_folder = classification.model_folder(run)
    with atomic_write(out) as folder:
        folder.mkdir()
        with suppress_native_stderr():
            exported = _EXPORTERS[export_format](classifier.model, folder)
        difference = _require_equal(_predict(exported, pixels), expected, export_format)
        sizes = _num_bytes(folder), (model_folder / "model.keras").stat().st_size
        for name in ("classes.json", "preprocessing.json"):
            shutil.copy(model_folder / name, folder / name)
        shutil.copy(preprocess.__file__, folder / "preprocess.py")
    table = _comparison_table(export_format, sizes, (exported, classifier.outputs), pixels)
    return f"{out}: equal to within {difference:.1e} in any probability, on {len(pixels)} images\n{table}"


def _comparison_images(classifier: Classifier, images: Sequence[Path]) -> np.ndarray:
    """Return images `(N, S, S, 3)` float32, preprocessed for the model."""
    files: list[Path | io.BytesIO]
    if images:
        files = [*classification.find_images(images)[0][:MAX_COMPARED]]
    elif classifier.gallery:
        files = [io.BytesIO(thumbnail) for thumbnail in classifier.gallery.thumbnails[:MAX_COMPARED]]
    else:
        raise FlowersError("this run saved no training images to compare on; name some: --images FOLDER")
    pixels = []
    for file in files:
        try:
            pixels.append(classifier.pixels(file))
        except FlowersError as error:
            raise FlowersError(f"`{file}` {error}") from None
    return np.stack(pixels).astype(np.float32)


def _require_equal(probabilities: np.ndarray, expected: np.ndarray, export_format: str) -> float:
    """Return the largest difference between two probabilities; refuse one that is too large, or not a number."""
    difference = float(abs(probabilities - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise FlowersError(
            f"{export_format} differs from Keras by up to {difference:.1e} in a probability; nothing was written"
        )
    return difference


def _predict(runner: Runner, pixels: np.ndarray) -> np.ndarray:
    starts = range(0, len(pixels), BATCH_SIZE)
    return np.concatenate([runner(pixels[start : start + BATCH_SIZE]) for start in starts])


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _comparison_table(
    export_format: str, sizes: tuple[int, int], runners: tuple[Runner, Runner], pixels: np.ndarray
) -> str:
    """Return a table of size and throughput, a column each for the exported model and for the original."""
    rows = [("", export_format, "Keras"), ("megabytes", *(f"{size / 1e6:.1f}" for size in sizes))]
    for batch_size in (BATCH_SIZE, 1):
        batch = pixels[:batch_size]
        throughputs = (f"{_images_per_second(runner, batch):.0f}" for runner in runners)
        rows.append((f"images/s, batch of {len(batch)}", *throughputs))
    return "\n".join(f"{name:<24}{exported:>12}{original:>10}" for name, exported, original in rows)


def _images_per_second(runner: Runner, pixels: np.ndarray) -> float:
    runner(pixels)  # warm up
    seconds = []
    for _ in range(NUM_TIMED_RUNS):
        start = time.perf_counter()
        runner(pixels)
        seconds.append(time.perf_counter() - start)
    return len(pixels) / float(np.median(seconds))


def _export_onnx(model: keras.Model, folder: Path) -> Runner:
    try:
        import onnxruntime
        import tf2onnx  # noqa: F401 - Keras calls it
    except ImportError as error:
        raise _missing_package(error) from None
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.Normalization):  # tf2onnx takes tensors that are no variables for inputs
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    model(keras.Input(model.input_shape[1:]))  # Keras exports only a model that was called
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer and, if it is a model, the layers in it, at any depth."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _all_layers(inner)


def _export_litert(model: keras.Model, folder: Path) -> Runner:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise _missing_package(error) from None
    model.export(str(folder / "model.tflite"), format="litert", verbose=False)  # Keras 3.13 takes no Path
    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=num_cores())
    input_index, output_index = (
        details[0]["index"] for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(pixels: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(input_index, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_index, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(output_index)

    return run


def _export_savedmodel(model: keras.Model, folder: Path) -> Runner:
    version = folder / "savedmodel/1"  # TensorFlow Serving looks for models in folders with a number as name
    model.export(str(version), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(version)
    return lambda pixels: loaded.serve([tf.constant(pixels)]).numpy()


def _missing_package(error: ImportError) -> FlowersError:
    return FlowersError(f"{error.name} is missing: pip install '.[export]' in flowerlib's folder")


_EXPORTERS: dict[ExportFormat, Callable[[keras.Model, Path], Runner]] = {
    "onnx": _export_onnx,
    "litert": _export_litert,
    "savedmodel": _export_savedmodel,
}
