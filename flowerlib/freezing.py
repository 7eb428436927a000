"""Freeze a network, or its early layers, and fold what then no longer changes: the same answers, sooner.

A normalisation that keeps its statistics multiplies each channel and adds to it. The convolution before it can do that
too, with other weights and a bias; then nothing has to pass over its maps again.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError


def freeze(backbone: keras.Sequential, before: str | None = None) -> keras.Sequential:
    """Return a loaded network whose early layers stay as they are: folded, not trained, not normalising anew.

    Edges and colours are the same in every photograph; and where the maps are large, training is slow.

    Args:
        backbone: as `backbones.load` returns it. Its layers are used again: let go of it.
        before: the name of the first layer that is still trained; without it none is.

    Raises:
        FlowersError: there is no such layer.
    """
    layers = backbone.layers[1].layers
    names = [layer.name for layer in layers]
    if before is not None and before not in names:
        raise FlowersError(f"`before` (={before!r}) must be a layer of {backbone.name}, such as {names[1]}")
    early = layers[: names.index(before)] if before else layers
    for layer in early:
        layer.trainable = False
    return fold(backbone, early)


def fold(model: keras.Model, among: Sequence[keras.Layer] | None = None) -> keras.Model:
    """Return a model of the same answers, to rounding, whose convolutions do the normalisation that follows them too.

    Args:
        model: of it and of models inside it, all other layers are used again.
        among: the layers that may be folded; all unless given. They must not be trained any further.
    """
    pairs = {} if isinstance(model, keras.Sequential) else dict(_pairs(model, among))
    norms = {id(norm) for norm in pairs.values()}

    def replaced(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return fold(layer, among)
        return _folded(layer, pairs[layer]) if layer in pairs else layer

    def called(layer: keras.Layer, *inputs: object, **options: object) -> object:
        return inputs[0] if id(layer) in norms else layer(*inputs, **options)

    if isinstance(model, keras.Sequential):
        return keras.Sequential([keras.Input(model.input_shape[1:]), *map(replaced, model.layers)], name=model.name)
    return keras.models.clone_model(model, clone_function=replaced, call_function=called)


def _pairs(
    network: keras.Model, among: Sequence[keras.Layer] | None
) -> Iterator[tuple[keras.Layer, keras.layers.BatchNormalization]]:
    """Yield each convolution whose maps go into a normalisation and nowhere else, and that normalisation."""
    may = {id(layer) for layer in (network.layers if among is None else among)}
    for layer in network.layers:
        if id(layer) in may and type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
            users = {id(node.operation): node.operation for node in layer._outbound_nodes}
            norm = users.popitem()[1] if len(users) == 1 else None
            if id(norm) in may and type(norm) is keras.layers.BatchNormalization and _is_linear(layer):
                yield layer, norm


def _is_linear(conv: keras.Layer) -> bool:
    return conv.activation is keras.activations.linear and conv.data_format == "channels_last"


def _folded(conv: keras.Layer, norm: keras.layers.BatchNormalization) -> keras.Layer:
    """Return a convolution that does both: (x * kernel + bias - mean) * scale + beta."""
    kernel, mean, variance = (_array(value) for value in (conv.kernel, norm.moving_mean, norm.moving_variance))
    scale = (_array(norm.gamma) if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    bias = ((_array(conv.bias) if conv.use_bias else 0.0) - mean) * scale + (_array(norm.beta) if norm.center else 0.0)
    # A depthwise kernel is (h, w, channels, times) and gives the channels in that order; others end in channels.
    channels = kernel.shape[2:] if isinstance(conv, keras.layers.DepthwiseConv2D) else kernel.shape[3:]
    both = type(conv).from_config(conv.get_config() | {"use_bias": True})
    both.build_from_config(conv.get_build_config())
    both.set_weights([kernel * scale.reshape(channels), bias])
    return both


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
