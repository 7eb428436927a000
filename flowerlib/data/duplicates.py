"""Near-duplicates: perceptual hashes of images, the pairs whose hashes are close, and the groups that pairs make."""

from collections.abc import Iterable

import numpy as np

from flowerlib.accelerator import tf

MAX_HASH_DISTANCE = 6  # of 64 bits: perceptual hashes of near-duplicates differ in no more, as measured in 01_eda
BATCH = 64  # rows compared at a time: for 24,000 images 12 MB instead of 5 GB at once
# Cosines of 0 to 8 half waves over 32 pixels: the low end of a discrete cosine transform, (9, 32).
COSINES = np.cos(np.pi * np.arange(9)[:, None] * (2 * np.arange(32) + 1) / 64).astype(np.float32)


def perceptual_hashes(images: np.ndarray | tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return 64 bits `(B,)` uint64 of each image `(B, S, S, 3)` and of its mirror image: a perceptual hash.

    The image in grey at 32 x 32 px, 8 x 8 of its lowest frequencies; a bit is set where one is above their median.
    Compressing and resizing move few of them across it. Mirroring changes the sign of every odd frequency in x, so the
    mirror image needs no second transform. After Zauner, Implementation and Benchmarking of Perceptual Image Hash
    Functions, 2010.
    """
    grey = tf.reduce_mean(images, axis=-1, keepdims=True)
    thumbnails = tf.image.resize(grey, (32, 32), method="area").numpy()[..., 0]  # (B, 32, 32)
    waves = COSINES[:8] @ thumbnails @ COSINES[1:].T  # (B, 8, 8), without the waves that are constant in x
    return _above_median(waves), _above_median(waves * (-1.0) ** np.arange(1, 9))


def _above_median(waves: np.ndarray) -> np.ndarray:
    flat = waves.reshape(len(waves), 64)
    return np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1).view(np.uint64)[:, 0]


def close_pairs(hashes: np.ndarray, others: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare each of the hashes `(n,)` with those of later images in `others` `(n,)`, such as of mirror images.

    Returns:
        The pairs within `max_distance` bits: the positions of the first and of the second, and their distance.
    """
    parts = []
    for start in range(0, len(hashes), BATCH):
        distance = np.bitwise_count(hashes[start : start + BATCH, None] ^ others[start:])
        left, right = np.nonzero(np.triu(distance <= max_distance, 1))
        parts.append((left + start, right + start, distance[left, right]))
    left, right, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return left, right, distance


def connected_components(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return for each of `count` rows the smallest row that is linked to it by pairs (union-find), `(count,)`."""
    parent = np.arange(count)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for left, right in pairs:
        smaller, larger = sorted((root(left), root(right)))
        parent[larger] = smaller
    return np.array([root(row) for row in range(count)])


def groups(hashes: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Return for each image `(n,)` the first one that it is a near-duplicate of, directly or through others, or itself.

    Args:
        hashes: `(n,)` uint64, as from `perceptual_hashes`.
        mirrored: those of the mirror images.
    """
    ways = [close_pairs(hashes, others, MAX_HASH_DISTANCE)[:2] for others in (hashes, mirrored)]
    return connected_components(len(hashes), (pair for way in ways for pair in zip(*way, strict=True)))
