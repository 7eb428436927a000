"""Classify photographs with the model that a run saved."""

import csv
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from packaging.version import Version
from PIL import Image
from tqdm import tqdm

from flowerlib import figures
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError, atomic_write, read_record
from flowerlib.evaluation import ActivationMaps
from flowerlib.networks import folding
from flowerlib.photos import photo, preprocess, tree
from flowerlib.photos.tree import printable
from flowerlib.predictions import calibrate
from flowerlib.training import gallery as galleries
from flowerlib.training.gallery import Gallery

MAX_NAME = 200  # bytes: file systems take 255, of which a temporary name needs some
STDIN = Path("-")  # an image on standard input
BATCH_SIZE = 32  # 64 takes a small network 250 MB more, and is no faster on a CPU
File = TypeVar("File", Path, BinaryIO)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:image/")
MAX_PATH_SHOWN = 300  # characters of a path in a message
MODEL_FILES = ("model.keras", "classes.json", "preprocessing.json", "run.json")


@dataclass(frozen=True)
class ActivationMap:
    """Class activation maps (CAM) of one image. Source: Zhou and others, arXiv 1512.04150.

    Attributes:
        features: `(d,)` float32, the pooled features, which the head receives.
        values: `(h, w, num_classes)` float32, by how many nats each place supports a class more than the average class;
            the softmax of their mean over all places is the network's output.
    """

    features: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """A model, its class names and its preprocessing.

    Attributes:
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities `(B, num_classes)`.
        classes: names in label order.
        stored_size: side in pixels of the squares in its dataset; a photograph is first reduced to such a square.
        image_size: S; that square is then resized to it.
        fit: `crop` or `pad`, as its dataset was made.
        record: of the run that trained it.
        gallery: its training images, if the run saved them.
        temperature: by which probabilities are calibrated.
    """

    model: keras.Model
    classes: tuple[str, ...]
    stored_size: int
    image_size: int
    fit: photo.Fit
    record: dict
    gallery: Gallery | None = None
    temperature: float = 1.0

    def pixels(
        self,
        file: Path | BinaryIO,
        max_pixels: int = photo.MAX_PIXELS,
        memory: photo.Memory = nullcontext,
    ) -> np.ndarray:
        """Preprocess a photograph to the model's input, `(S, S, 3)` uint8, as if it came from a dataset.

        `max_pixels`, `memory` and errors as in `photo.read`.
        """
        square = photo.decode(photo.as_jpeg(file, self.stored_size, self.fit, max_pixels, memory))
        return preprocess.resize(square, self.image_size)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Return what the network makes of images `(B, S, S, 3)` as they are: `(B, num_classes)` float32."""
        batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        return np.concatenate([_run(self.model, batch) for batch in batches])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities `(B, num_classes)` float32 of images `(B, S, S, 3)`, calibrated.

        They come from the mean over each image and its mirror image (test-time augmentation), as runs are scored.
        """
        outputs = self.outputs(np.concatenate([images, images[:, :, ::-1]]))
        return calibrate((outputs[: len(images)] + outputs[len(images) :]) / 2, self.temperature)

    def activation_map(self, image: np.ndarray) -> ActivationMap:
        """Return the class activation maps of an image `(S, S, 3)`."""
        features, values = self._activation_maps(image[np.newaxis])
        return ActivationMap(features[0], values[0])

    @cached_property
    def _activation_maps(self) -> ActivationMaps:
        return ActivationMaps(self.model)

    def top(self, probabilities: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Return the most probable classes of one image, the most probable first, with their probabilities.

        Args:
            probabilities: `(num_classes,)`.
            count: how many classes to return.
        """
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.classes[label], float(probabilities[label])) for label in order]


def _run(model: keras.Model, images: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """Return the outputs for a batch, in float32, from the compiled model."""
    count = len(images)
    if model.jit_compile:  # compiled for every batch size: pad to powers of two, of which there are few
        images = np.resize(images, (1 << (count - 1).bit_length(), *images.shape[1:]))
    outputs = model.predict_on_batch(np.asarray(images, np.float32))
    return keras.tree.map_structure(lambda output: np.asarray(output[:count], np.float32), outputs)


def model_folder(run: Path) -> Path:
    """Return the folder with the model: `model/` of a run, or the folder itself; the one that model.keras lies in."""
    if run.is_file() and run.name == MODEL_FILES[0]:
        return run.parent
    return run / "model" if (run / "model" / MODEL_FILES[0]).exists() else run


def run_folder(model: Path) -> Path:
    """Return the folder of the run that a model lies in, or that of a model which was copied elsewhere."""
    folder = model_folder(model)
    return folder.parent if folder.resolve().name == "model" else folder


def load(run: Path) -> Classifier:
    """Load the model of a run: `runs/<name>`, its folder `model`, a copy of that folder, or model.keras in it.

    Raises:
        FlowersError: a file of it is missing or damaged.
    """
    if not run.exists():
        raise FlowersError(f"`{run}` does not exist; pass a run folder, such as outputs/runs/00_quickstart")
    folder = model_folder(run)
    if not folder.is_dir():
        raise FlowersError(
            f"`{run}` is a file and no model.keras; pass a run folder, such as outputs/runs/00_quickstart"
        )
    if missing := [name for name in MODEL_FILES if not (folder / name).exists()]:
        runs = sorted(path.parents[1] for path in run.glob(f"runs/*/model/{MODEL_FILES[0]}"))
        examples = " or ".join(f"`{path}`" for path in runs) or "outputs/runs/00_quickstart"
        raise FlowersError(f"`{folder}` has no {missing[0]}; pass a run folder, such as {examples}")
    try:
        return _load_files(folder)
    except (ValueError, OSError, EOFError, KeyError, TypeError, BadZipFile) as error:
        if newer := _newer_keras(folder / MODEL_FILES[0]):
            raise FlowersError(
                f"`{folder}` was saved by Keras {newer}, which the Keras {keras.__version__} here cannot read: "
                f"pip install 'keras>={newer}'"
            ) from None
        raise FlowersError(
            f"`{folder}` cannot be loaded ({error!r}); copy it again, or run its notebook again"
        ) from None


def _newer_keras(model_file: Path) -> str:
    """Return the version of Keras that saved a model; empty if it is not newer than the one here, or cannot be told."""
    try:
        with ZipFile(model_file) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
        return version if Version(version) > Version(keras.__version__) else ""
    except (OSError, BadZipFile, KeyError, ValueError):
        return ""


def _load_files(folder: Path) -> Classifier:
    classes, preprocessing = (json.loads((folder / name).read_text("utf-8")) for name in MODEL_FILES[1:3])
    record = read_record(folder / MODEL_FILES[3])
    model = folding.fold_batch_norm(keras.models.load_model(folder / MODEL_FILES[0], compile=False))
    sizes = preprocessing["stored_size"], preprocessing["image_size"]
    _ = [record[name] for name in ("name", "backbone", "smoke_test")]  # what users of it read
    gallery_file = folder / galleries.FILE
    gallery = galleries.load(gallery_file) if gallery_file.exists() else None
    temperature = preprocessing.get("temperature", 1.0)  # which models of earlier versions do not have
    return Classifier(model, tuple(classes), *sizes, preprocessing["fit"], record, gallery, temperature)


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files among the paths, and for each folder the pictures below it, sorted; and what was passed over.

    Links are followed, but no folder is entered twice, and none that is hidden. Files in a folder that are no pictures
    are passed over, and counted in sentences; a file that is named itself is always among those returned.

    Raises:
        FlowersError: a path does not exist or is an address, or a folder has no pictures or cannot be listed.
    """
    images: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path != STDIN:
            _require_place(path)
        if path == STDIN or not path.is_dir():
            images.append(path)
            continue
        found = tree.walk(path)
        told = [f"`{printable(str(path))}`: {note}" for note in found.notes()]
        if not found.pictures:
            raise FlowersError(
                "\n".join([f"`{printable(str(path))}` has no pictures; name images, or folders with images", *told])
            )
        images += [path.joinpath(*parts) for parts in found.pictures]
        notes += told
    return images, notes


def _require_place(path: Path) -> None:
    """Refuse what is no file or folder on this machine."""
    try:
        exists = path.exists()
    except OSError:  # such as a name that is too long
        exists = False
    told = _one_line(printable(str(path)))[:MAX_PATH_SHOWN]
    if not exists and ADDRESS.match(str(path)):
        address = told.replace(":/", "://", 1)  # a path has lost one of its slashes
        raise FlowersError(
            f"`{address}` is an address; download it and name the file, or send it to standard input: "
            "curl -L ADDRESS | flowerlib predict - --model RUN"
        )
    if not exists:
        raise FlowersError(f"`{told}` does not exist; name images, or folders with images")


def classify(
    classifier: Classifier, files: Sequence[File], batch_size: int = BATCH_SIZE
) -> Iterator[tuple[File, np.ndarray | FlowersError]]:
    """Yield each file, in order, with its probabilities `(num_classes,)`, or with the error that it cannot be read."""

    def pixels_or_error(file: File) -> np.ndarray | FlowersError:
        try:
            return _pixels(classifier, file)
        except FlowersError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            images = list(pool.map(pixels_or_error, batch))
            readable = [image for image in images if not isinstance(image, FlowersError)]
            probabilities = iter(classifier.probabilities(np.stack(readable)) if readable else ())
            yield from (
                (file, image if isinstance(image, FlowersError) else next(probabilities))
                for file, image in zip(batch, images, strict=True)
            )


def report(
    classifier: Classifier,
    paths: Sequence[Path],
    top: int,
    form: Literal["text", "json", "csv"],
    *,
    threshold: float = 0.0,
    explain: Path | None = None,
) -> None:
    """Print the most probable classes of every image, with a progress bar on stderr.

    Args:
        classifier: the model.
        paths: images, folders with images, or `-` for an image on standard input.
        top: how many classes to print at most.
        form: `text`, `json` (a line for each image) or `csv`.
        threshold: the least probability of a class that is printed.
        explain: a folder that gets each image with the class activation map of its most probable class.

    Raises:
        FlowersError: some images could not be read; each has been named on stderr, the others were classified.
    """
    files, notes = find_images(paths)
    num_failed, explained = 0, Counter[str]()
    for note in notes:
        print(note, file=sys.stderr)
    if classifier.record["smoke_test"]:
        print("SMOKE TEST: this model was trained for a few steps only; ignore its predictions.", file=sys.stderr)
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(["file", "rank", "class", "probability"])
    results = classify(classifier, files)
    for file, result in tqdm(results, total=len(files), unit="img", disable=len(files) < BATCH_SIZE):
        if isinstance(result, FlowersError):
            num_failed += 1
            tqdm.write(f"`{printable(str(file))}` {result}", file=sys.stderr)
        else:
            classes = [(name, value) for name, value in classifier.top(result, top) if value >= threshold]
            _print_prediction(printable(str(file)), classes, form)
            if explain:
                _explain(classifier, file, int(result.argmax()), explain, explained)
    if num_failed:
        raise FlowersError(f"{num_failed} of {len(files)} images could not be read; they are named above")


def _pixels(classifier: Classifier, file: Path | BinaryIO) -> np.ndarray:
    return classifier.pixels(io.BytesIO(_standard_input()) if file == STDIN else file)


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()  # which can be read once only


def _explain(classifier: Classifier, file: Path, label: int, folder: Path, explained: Counter[str]) -> None:
    """Write an image, bright where it supports the class, as `<name of the file>-<class>.png`.

    `explained` counts the names that were written: files in several folders may have the same one.
    """
    image = _pixels(classifier, file)
    lit = figures.lit_by_map(image, classifier.activation_map(image).values[..., label])
    name = _file_name(f"{file.name}-{classifier.classes[label].replace('/', '-')}")
    explained[name] += 1
    number = f"-{explained[name]}" if explained[name] > 1 else ""
    with atomic_write(folder / f"{name}{number}.png") as temporary:
        Image.fromarray(lit).save(temporary, "PNG")


def _file_name(name: str) -> str:
    """Return a name that any file system takes, in any locale: at most 200 bytes, a long one with a hash at its end."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_NAME:
        encoded = encoded[: MAX_NAME - 9] + f"-{hashlib.sha256(encoded).hexdigest()[:8]}".encode()
    return os.fsdecode(encoded)


def _print_prediction(file: str, predictions: list[tuple[str, float]], form: str) -> None:
    if form == "json":
        classes = [{"class": name, "probability": round(probability, 6)} for name, probability in predictions]
        print_json({"file": file, "predictions": classes})
    elif form == "csv":
        rows = ((file, rank, name, f"{probability:.6f}") for rank, (name, probability) in enumerate(predictions, 1))
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    else:
        text = ", ".join(f"{name} {probability:.1%}" for name, probability in predictions)
        print(f"{_one_line(file)}: {text or 'no class is probable enough'}")


def _one_line(name: str) -> str:
    """Escape what would break a line, or steer a terminal."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], name)


def print_json(content: object) -> None:
    """Print JSON in one line; where the output is not UTF-8, other characters are escaped as JSON does it."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(content, ensure_ascii=not is_utf8))
