"""Class activation maps (CAM): which places of an image support a class."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flowerlib.accelerator import keras


@dataclass(frozen=True)
class ActivationMaps:
    """What computes class activation maps with one model. Source: Zhou and others, arXiv 1512.04150.

    Attributes:
        model: pixels `(B, S, S, 3)` in [0, 255] -> convolutions -> global average pooling -> layers, of which the last
            is dense -> probabilities `(B, num_classes)`; or an extractor as `networks.feature_extractor` makes it in
            place of the first two, with several poolings.
    """

    model: keras.Model

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute features and maps of images `(B, S, S, 3)`.

        Returns:
            Features `(B, d)` float32, which the head receives; maps `(B, h, w, num_classes)` float32, by how many nats
            each place supports a class more than the average class. The softmax of a map's mean over all places is the
            probabilities, where the layers between pooling and the last are linear. Of several poolings, h and w are
            the largest.
        """
        backbone, head = self._backbone_and_head
        outputs = keras.tree.flatten(backbone.predict_on_batch(np.asarray(images, np.float32)))
        pooled = [np.asarray(output, np.float32) for output in outputs]  # (B, h, w, d) of each
        features = np.concatenate([each.mean(axis=(1, 2)) for each in pooled], axis=-1)
        side = max(pooled, key=lambda each: each.shape[1]).shape[1:3]
        places = np.concatenate([_resized(each, *side) for each in pooled], axis=-1)
        hidden = keras.ops.convert_to_tensor(places.reshape(-1, places.shape[-1]))  # (B * h * w, d)
        for layer in head[:-1]:
            hidden = layer(hidden)
        logits = np.asarray(hidden) @ np.asarray(head[-1].kernel) + np.asarray(head[-1].bias)
        values = logits - logits.mean(axis=-1, keepdims=True)
        return features, values.reshape(*places.shape[:3], -1)

    @cached_property
    def _backbone_and_head(self) -> tuple[keras.Model, list[keras.layers.Layer]]:
        """What comes before the pooling as a model, and the layers after it, of which the last is dense."""
        layers = [layer for layer in self.model.layers if not isinstance(layer, keras.layers.InputLayer)]
        [at] = [number for number, layer in enumerate(layers) if _poolings(layer)]
        head = [each for layer in layers[at + 1 :] for each in getattr(layer, "layers", [layer])]
        head = [layer for layer in head if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)]
        if isinstance(layers[at], keras.Model):
            return keras.Model(layers[at].input, [each.input for each in _poolings(layers[at])]), head
        return keras.Sequential([keras.Input(self.model.input_shape[1:]), *layers[:at]]), head


def _poolings(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The poolings in a model, or the layer itself where it is one."""
    layers = getattr(layer, "layers", [layer])
    return [each for each in layers if isinstance(each, keras.layers.GlobalAveragePooling2D)]


def _resized(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return maps `(B, h, w, d)` with more places, each the mean of the area it covers; their mean stays the same."""
    down, across = _overlaps(maps.shape[1], height), _overlaps(maps.shape[2], width)
    return np.einsum("yh,xw,bhwd->byxd", down, across, maps, optimize=True)


def _overlaps(count: int, more: int) -> np.ndarray:
    """Of each of `more` equal parts of a line, what fraction lies in each of `count` equal parts, `(more, count)`."""
    edges, old = np.arange(more + 1) * count / more, np.arange(count)
    overlaps = np.minimum(edges[1:, np.newaxis], old + 1) - np.maximum(edges[:-1, np.newaxis], old)
    return (np.maximum(overlaps, 0) * more / count).astype(np.float32)


def activation_maps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the map of one class for each image, `(B, h, w)` float32.

    Args:
        model: as in `ActivationMaps`.
        images: `(B, S, S, 3)` in [0, 255].
        labels: `(B,)`, the class of each map.
    """
    _, maps = ActivationMaps(model)(images)
    return maps[np.arange(len(labels)), :, :, labels]
