"""A trained model as a run left it, for photographs from anywhere."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from flowerlib import data
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError, read_record
from flowerlib.networks import folding
from flowerlib.photos import photo
from flowerlib.training import gallery as galleries
from flowerlib.training.gallery import Gallery

BATCH = 32  # images at a time: 64 take a small network 250 MB more, and a CPU as long
FILES = ("model.keras", "classes.json", "preprocessing.json", "run.json")


@dataclass(frozen=True)
class ActivationMap:
    """Class activation maps (CAM) of one image. Source: Zhou and others, arXiv 1512.04150.

    Attributes:
        features: `(d,)` float32, the pooled features, which the head receives.
        values: `(h, w, num_classes)` float32, by how many nats each place supports a class more than the average class;
            the softmax of their mean over all places is the probabilities.
    """

    features: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """A model with all that it needs to name what a photograph shows.

    Attributes:
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities `(B, num_classes)`.
        classes: names in label order.
        stored_size: side of the square that is cut out of a photograph, in pixels, as its dataset had them.
        image_size: S; that square is resized to it.
        fit: `crop` or `pad`, as its dataset was made.
        record: of the run that trained it.
        gallery: its training pictures, where the run kept them.
    """

    model: keras.Model
    classes: tuple[str, ...]
    stored_size: int
    image_size: int
    fit: photo.Fit
    record: dict
    gallery: Gallery | None = None

    def pixels(
        self,
        file: Path | BinaryIO,
        most_pixels: int = photo.MOST_PIXELS,
        memory: photo.Memory = nullcontext,
    ) -> np.ndarray:
        """Return a photograph as the model sees it, `(S, S, 3)` uint8: as if it had first been stored in a dataset.

        `most_pixels`, `memory` and errors as in `photo.read`.
        """
        square = photo.decode(photo.as_jpeg(file, self.stored_size, self.fit, most_pixels, memory))
        return np.asarray(data.resize(square[np.newaxis], self.image_size))[0]

    def probabilities(self, images: np.ndarray, mirror: bool = True) -> np.ndarray:
        """Return what the model says of images `(B, S, S, 3)`: `(B, num_classes)` float32, rows that sum to one.

        With `mirror`, the mean of what it says of each image and of its mirror image, as runs are scored.
        """
        seen = np.concatenate([images, images[:, :, ::-1]]) if mirror else images
        starts = range(0, len(seen), BATCH)
        said = np.concatenate([_run(self.model, seen[start : start + BATCH]) for start in starts])
        return (said[: len(images)] + said[len(images) :]) / 2 if mirror else said

    def activation_map(self, image: np.ndarray) -> ActivationMap:
        """Return the class activation maps of an image `(S, S, 3)`."""
        backbone, head = self._backbone_and_head
        places, features = (output[0] for output in _run(backbone, image[np.newaxis]))
        hidden = keras.ops.convert_to_tensor(places.reshape(-1, places.shape[-1]))  # (h * w, d)
        for layer in head[:-1]:
            hidden = layer(hidden)
        logits = np.asarray(hidden) @ np.asarray(head[-1].kernel) + np.asarray(head[-1].bias)
        values = logits - logits.mean(axis=-1, keepdims=True)
        return ActivationMap(features, values.reshape(*places.shape[:2], -1))

    @cached_property
    def _backbone_and_head(self) -> tuple[keras.Model, list[keras.layers.Layer]]:
        """The network up to the pooling's input and output, and the layers after it, of which the last is dense."""
        pools = [layer for layer in self.model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
        after = self.model.layers[self.model.layers.index(pools[0]) + 1 :]
        layers = [each for layer in after for each in getattr(layer, "layers", [layer])]
        layers = [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)]
        return keras.Model(self.model.inputs, [pools[0].input, pools[0].output]), layers

    def top(self, probabilities: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Return the likeliest names with their probabilities `(num_classes,)`, the likeliest first."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.classes[label], float(probabilities[label])) for label in order]


def _run(model: keras.Model, images: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """Return the outputs for a batch, in float32, from the compiled model."""
    count = len(images)
    if model.jit_compile:  # for every size of a batch: let there be few
        images = np.resize(images, (1 << (count - 1).bit_length(), *images.shape[1:]))
    outputs = model.predict_on_batch(np.asarray(images, np.float32))
    return keras.tree.map_structure(lambda output: np.asarray(output[:count], np.float32), outputs)


def model_folder(run: Path) -> Path:
    """Return the folder with the model: that of the run, or the one named itself."""
    return run / "model" if (run / "model/model.keras").exists() else run


def load(run: Path) -> Classifier:
    """Load the model of a run: `runs/<name>`, its folder `model`, or wherever that was moved.

    Raises:
        FlowersError: a file of it is missing or damaged.
    """
    if not run.exists():
        raise FlowersError(f"`{run}` is not there; name what a notebook left: outputs/runs/<name>")
    folder = model_folder(run)
    if missing := [name for name in FILES if not (folder / name).exists()]:
        below = sorted(path.parents[1] for path in run.glob(f"runs/*/model/{FILES[0]}"))
        named = " or ".join(f"`{path}`" for path in below) or "outputs/runs/<name>"
        raise FlowersError(f"`{folder}` has no {missing[0]}; name what a notebook left: {named}")
    try:
        classes, preprocessing = (json.loads((folder / name).read_text("utf-8")) for name in FILES[1:3])
        record = read_record(folder / FILES[3])
        model = folding.fold_batch_norm(keras.models.load_model(folder / "model.keras", compile=False))
        sizes = preprocessing["stored_size"], preprocessing["image_size"]
        _ = [record[name] for name in ("name", "backbone", "smoke_test", "val_macro_f1")]
        kept = folder / galleries.FILE
        gallery = galleries.load(kept) if kept.exists() else None
        return Classifier(model, tuple(classes), *sizes, preprocessing["fit"], record, gallery)
    except (ValueError, OSError, EOFError, KeyError, TypeError, BadZipFile) as error:
        raise FlowersError(
            f"`{folder}` cannot be loaded ({error!r}); copy it again, or run its notebook again"
        ) from None


def find_images(places: Sequence[Path]) -> list[Path]:
    """Return the files named, and for a folder those below it that are not hidden, sorted.

    Raises:
        FlowersError: a place is not there, or a folder has no files.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise FlowersError(f"`{place}` is not there; name images, or folders with images")
        below = [place]
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.is_file())
            below = [path for path in files if not any(part.startswith(".") for part in path.relative_to(place).parts)]
        if not below:
            raise FlowersError(f"`{place}` has no files; name images, or folders with images")
        found += below
    return found


def classify(
    classifier: Classifier, files: Sequence[Path], batch_size: int = BATCH
) -> Iterator[tuple[Path, np.ndarray | FlowersError]]:
    """Yield for each file, in their order, its probabilities `(num_classes,)`, or why it cannot be read."""

    def pixels(file: Path) -> np.ndarray | FlowersError:
        try:
            return classifier.pixels(file)
        except FlowersError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for first in range(0, len(files), batch_size):
            batch = files[first : first + batch_size]
            images = list(pool.map(pixels, batch))
            sound = [image for image in images if not isinstance(image, FlowersError)]
            said = iter(classifier.probabilities(np.stack(sound)) if sound else ())
            yield from (
                (file, image if isinstance(image, FlowersError) else next(said))
                for file, image in zip(batch, images, strict=True)
            )


def report(classifier: Classifier, places: Sequence[Path], top: int, form: Literal["text", "json", "csv"]) -> None:
    """Print the `top` likeliest names of every image, as `form` says, with a progress bar on stderr.

    Raises:
        FlowersError: at the end, where some could not be read; each was named on stderr.
    """
    files, failed = find_images(places), 0
    if classifier.record["smoke_test"]:
        print("SMOKE TEST: this model took only a few steps of training; its answers mean nothing.", file=sys.stderr)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["file", "rank", "class", "probability"])
    for file, said in tqdm(classify(classifier, files), total=len(files), unit="img", disable=len(files) < BATCH):
        if isinstance(said, FlowersError):
            failed += 1
            tqdm.write(f"`{file}` {said}", file=sys.stderr)
            continue
        names = classifier.top(said, top)
        if form == "json":
            classes = [{"class": name, "probability": round(probability, 6)} for name, probability in names]
            print(json.dumps({"file": str(file), "predictions": classes}, ensure_ascii=False))
        elif form == "csv":
            table.writerows((file, rank, name, f"{value:.6f}") for rank, (name, value) in enumerate(names, 1))
        else:
            print(f"{file}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in names))
    if failed:
        raise FlowersError(f"{failed} of {len(files)} images could not be read; they are named above")
