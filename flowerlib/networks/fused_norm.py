"""Normalise by TensorFlow's fused operation while training: once over the maps where Keras goes several times."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from flowerlib.accelerator import keras, tf

Norm: TypeAlias = keras.layers.BatchNormalization


class _FusedNorm(Norm):
    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = self.gamma if self.scale else tf.ones(channels)
        beta = self.beta if self.center else tf.zeros(channels)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta), epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        # The operation estimates the variance of all images there are; Keras keeps the batch's.
        variance *= (count - 1.0) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return outputs


@contextmanager
def fused_batch_norm(model: keras.Model) -> Iterator[None]:
    """Within it, a model that begins to be trained on TensorFlow is trained with the operation, to the same weights.

    Where Keras drives JAX, XLA fuses by itself, and nothing changes. Afterwards every layer is Keras' own again, and so
    is what is saved.
    """
    norms = list(_norms(model)) if keras.backend.backend() == "tensorflow" else []
    for layer in norms:
        layer.__class__ = _FusedNorm
    try:
        yield
    finally:
        for layer in norms:
            layer.__class__ = Norm


def _norms(model: keras.Model) -> Iterator[Norm]:
    """Yield the layers, in nested models too, whose normalization the operation does as Keras does it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _norms(layer)
        elif type(layer) is Norm and _is_plain(layer):
            yield layer


def _is_plain(norm: Norm) -> bool:
    renorm = getattr(norm, "renorm", False)  # since Keras 3.14
    channels_last = norm.built and norm.axis in (-1, 3) and norm.input_spec.ndim == 4
    return channels_last and norm.compute_dtype == "float32" and not (norm.synchronized or renorm)
