"""Frozen networks side by side: the features of several networks, at several image sizes, from one image."""

from collections.abc import Sequence
from typing import Literal

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import backbones


def feature_extractor(
    names: Sequence[str],
    sizes: Sequence[int],
    image_size: int,
    weights: Literal["pretrained", "random"] = "pretrained",
) -> keras.Model:
    """Build a frozen model: pixels in [0, 255] `(B, S, S, 3)` -> features `(B, d)`, d the sum over networks and sizes.

    The image is resized to each of the sizes inside the model: bilinear and without antialiasing, which enlarging does
    not need. Every network processes each of them, and global average pooling makes one number of each map. A network
    is held once, however many sizes there are. Features come network by network, in the order of the sizes.

    In training, crops enlarged what a photograph shows; whole photographs at the same size show it smaller. Larger
    images make up for that (FixRes: Touvron and others, arXiv 1906.06423), and at two sizes a network sees two things.

    Args:
        names: rows of `BACKBONES`.
        sizes: sides in pixels.
        image_size: S.
        weights: as in `load`.

    Raises:
        FlowersError: as `load` raises it; a name or a size comes twice, or there is none; or a size is no whole number.
    """
    _require_some_and_different("networks", names)
    _require_some_and_different("sizes", sizes)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise FlowersError(f"`sizes` (={tuple(sizes)}) must be whole numbers of pixels, such as (192, 256)")
    pixels = keras.Input((image_size, image_size, 3))
    # Also to the size it has, for the order of layers, by which features are cached, to be that of the sizes.
    resized = [keras.layers.Resizing(size, size, dtype="float32")(pixels) for size in sizes]
    pooled = []
    for name in names:
        backbone = backbones.load(name, None, weights)
        backbone.trainable = False
        pooled += [keras.layers.GlobalAveragePooling2D(dtype="float32")(backbone(images)) for images in resized]
    return keras.Model(pixels, keras.layers.Concatenate(dtype="float32")(pooled), name="feature_extractor")


def _require_some_and_different(what: str, given: Sequence) -> None:
    if not given or len(set(given)) < len(given):
        raise FlowersError(f"`{what}` (={tuple(given)}) must be one or more, each of them once")
