"""Similar images: the training images with their features, to find those that a photograph resembles."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flowerlib import data
from flowerlib.config import FlowersError
from flowerlib.data import Flowers
from flowerlib.training.features import Features

FILE = "gallery.npz"  # in the model's folder
SIDE = 96  # of a thumbnail, in pixels


@dataclass(frozen=True)
class Gallery:
    """Training pictures, in file order.

    Attributes:
        features: `(N, d)` float32, each of length one.
        labels: `(N,)` int64.
        ids: `(N,)` strings.
        thumbnails: N JPEGs of `(96, 96, 3)`.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    thumbnails: list[bytes]

    def nearest(self, features: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the positions of the most similar pictures and the cosine to each, the most similar first.

        `features` is `(d,)`, of any length.
        """
        cosines = self.features @ _unit(features)
        return [(int(place), float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:count]]


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def save(path: Path, features: Features, flowers: Flowers) -> None:
    """Write the features of the original training images, and thumbnails of them.

    Raises:
        FlowersError: the features are of other images.
    """
    thumbnails, ids = [], []
    for images, _, names in data.eval_batches(flowers, "train", 64, image_size=SIDE):
        for image in images.numpy():
            Image.fromarray(image).save(encoded := io.BytesIO(), "JPEG", quality=85)
            thumbnails.append(encoded.getvalue())
        ids += data.decode_utf8(names.numpy()).tolist()
    if ids != np.asarray(features.ids, str).tolist():
        raise FlowersError("the features are of other images than the dataset's; run the notebook again")
    np.savez(
        path,
        features=_unit(features.values[0]).astype(np.float16),
        labels=features.labels,
        ids=np.asarray(features.ids, str),
        thumbnails=np.frombuffer(b"".join(thumbnails), np.uint8),
        ends=np.cumsum([len(thumbnail) for thumbnail in thumbnails]),
    )


def load(path: Path) -> Gallery:
    """Read what `save` wrote. Raises `ValueError`, `OSError`, `KeyError` or `BadZipFile` where the file is damaged."""
    with np.load(path) as kept:
        joined, ends = kept["thumbnails"].tobytes(), kept["ends"].tolist()
        thumbnails = [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return Gallery(kept["features"].astype(np.float32), kept["labels"], kept["ids"], thumbnails)
