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
            is dense -> probabilities `(B, num_classes)`.
    """

    model: keras.Model

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute features and maps of images `(B, S, S, 3)`.

        Returns:
            Features `(B, d)` float32, which the head receives; maps `(B, h, w, num_classes)` float32, by how many nats
            each place supports a class more than the average class. The softmax of a map's mean over all places is the
            probabilities, where the layers between pooling and the last are linear.
        """
        backbone, head = self._backbone_and_head
        places = np.asarray(backbone.predict_on_batch(np.asarray(images, np.float32)), np.float32)  # (B, h, w, d)
        features = places.mean(axis=(1, 2))
        hidden = keras.ops.convert_to_tensor(places.reshape(-1, places.shape[-1]))  # (B * h * w, d)
        for layer in head[:-1]:
            hidden = layer(hidden)
        logits = np.asarray(hidden) @ np.asarray(head[-1].kernel) + np.asarray(head[-1].bias)
        values = logits - logits.mean(axis=-1, keepdims=True)
        return features, values.reshape(*places.shape[:3], -1)

    @cached_property
    def _backbone_and_head(self) -> tuple[keras.Model, list[keras.layers.Layer]]:
        """The layers before the pooling as a model, and those after it, of which the last is dense."""
        layers = [layer for layer in self.model.layers if not isinstance(layer, keras.layers.InputLayer)]
        [pool] = [layer for layer in layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
        at = layers.index(pool)
        head = [each for layer in layers[at + 1 :] for each in getattr(layer, "layers", [layer])]
        head = [layer for layer in head if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)]
        return keras.Sequential([keras.Input(self.model.input_shape[1:]), *layers[:at]]), head


def activation_maps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the map of one class for each image, `(B, h, w)` float32.

    Args:
        model: as in `ActivationMaps`.
        images: `(B, S, S, 3)` in [0, 255].
        labels: `(B,)`, the class of each map.
    """
    _, maps = ActivationMaps(model)(images)
    return maps[np.arange(len(labels)), :, :, labels]
