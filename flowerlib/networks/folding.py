"""Freeze layers, and fold batch normalization into the convolutions before it: the same output, sooner.

A normalization that keeps its statistics multiplies each channel and adds to it. The convolution before it can do that
too, with other weights and a bias; then nothing has to pass over its maps again.
"""

from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import TypeAlias, cast

import numpy as np

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError

Convolution: TypeAlias = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
Norm: TypeAlias = keras.layers.BatchNormalization


def freeze(backbone: keras.Sequential, before: str | None = None) -> keras.Sequential:
    """Return a copy of a loaded network whose early layers stay as they are: not trained, not normalizing anew, folded.

    Edges and colours are the same in every photograph; and where the maps are large, training is slow.

    Args:
        backbone: as `backbones.load` returns it.
        before: the name of the first layer that is still trained; without it none is.

    Raises:
        FlowersError: there is no such layer.
    """
    layers = backbone.layers[1].layers
    names = [layer.name for layer in layers]
    if before is not None and before not in names:
        raise FlowersError(f"`before` (={before!r}) must be a layer of {backbone.name}, such as {names[1]}")
    early = layers[: names.index(before)] if before else layers
    frozen = fold_batch_norm(backbone, set(early))
    for layer in frozen.layers[1].layers:
        if layer.name in names[: len(early)]:
            layer.trainable = False
    return frozen


def fold_batch_norm(model: keras.Model, among: Collection[keras.Layer] | None = None) -> keras.Model:
    """Return an equivalent model, up to rounding, with batch normalization folded into the convolutions before it.

    Layers that stand directly in a `keras.Sequential` are only copied.

    Args:
        model: functional or sequential; also the models inside it are copied and folded.
        among: the layers that may be folded, all unless given; they can no longer normalize by a batch's statistics.
    """
    pairs = {} if isinstance(model, keras.Sequential) else dict(_pairs(model, among))
    norms = set(pairs.values())

    def copied(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return fold_batch_norm(layer, among)
        if layer in pairs:
            return _folded(layer, pairs[layer])
        return layer if layer in norms else _copy(layer)

    def called(layer: keras.Layer, *inputs: object, **options: object) -> object:
        return inputs[0] if layer in norms else layer(*inputs, **options)

    return _cloned(model, copied, called)


def to_float32(model: keras.Model) -> keras.Model:
    """Return a model that computes in float32 throughout, with the same weights, as they are float32 under any policy.

    Any CPU computes in float32, and any format holds it. What was trained in mixed precision predicts the same, up
    to rounding. It is not compiled. Layers that compute in float32 already are the model's own, not copies.
    """

    def copied(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        float32_config = cast(dict, _unmixed(config))
        if config == float32_config and getattr(layer, "compute_dtype", "float32") == "float32":
            return layer
        return to_float32(layer) if isinstance(layer, keras.Model) else _copy(layer, float32_config)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # of the models themselves
    try:
        return _cloned(model, copied)
    finally:
        keras.config.set_dtype_policy(policy)


def _unmixed(config: object) -> object:
    """A layer's configuration with float32 in place of every policy of mixed precision, in layers within it too."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and config["config"]["name"].startswith("mixed_"):
            return "float32"
        return {key: _unmixed(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(map(_unmixed, config))
    return config


def _cloned(model: keras.Model, copied: Callable, called: Callable | None = None) -> keras.Model:
    if isinstance(model, keras.Sequential):
        pixels = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
        return keras.Sequential([pixels, *map(copied, model.layers)], name=model.name)
    plain = keras.Model(model.input, model.output, name=model.name)  # a compiled one is cloned with its optimizer
    # One copy of a layer that is used several times, such as a network at several image sizes.
    return keras.models.clone_model(plain, clone_function=cache(copied), call_function=called)


def _pairs(network: keras.Model, among: Collection[keras.Layer] | None) -> Iterator[tuple[Convolution, Norm]]:
    """Yield each convolution whose maps go into a normalization and nowhere else, and that normalization."""
    may = set(network.layers) if among is None else among
    only_users = _only_users(network)
    for conv in network.layers:
        if conv in may and type(conv) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
            norm = only_users.get(conv.name)
            if norm is not None and norm in may and type(norm) is Norm and norm.axis in (-1, 3) and _is_linear(conv):
                yield conv, norm


def _only_users(network: keras.Model) -> dict[str, keras.Layer]:
    """Map each layer's name to the layer that alone uses its output, where both are called just once."""
    config = network.get_config()
    users: dict[str, list[str]] = {}
    for layer in config["layers"]:
        for producer in _producers(layer["inbound_nodes"]):
            users.setdefault(producer, []).append(layer["name"])
    once = {layer["name"] for layer in config["layers"] if len(layer["inbound_nodes"]) <= 1}
    outputs = str(config["output_layers"])
    return {
        producer: network.get_layer(consumers[0])
        for producer, consumers in users.items()
        if len(consumers) == 1 and {producer, *consumers} <= once and repr(producer) not in outputs
    }


def _producers(nodes: object) -> Iterator[str]:
    """Yield the name of the layer behind each tensor in a configuration's `inbound_nodes`."""
    if isinstance(nodes, dict):
        if "keras_history" in nodes:
            yield nodes["keras_history"][0]
        nodes = list(nodes.values())
    for each in nodes if isinstance(nodes, list | tuple) else ():
        yield from _producers(each)


def _is_linear(conv: Convolution) -> bool:
    return conv.activation is keras.activations.linear and conv.data_format == "channels_last"


def _folded(conv: Convolution, norm: Norm) -> Convolution:
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


def _copy(layer: keras.Layer, config: dict | None = None) -> keras.Layer:
    """Return a layer of its own: one that were used again would keep all that it was connected to."""
    copied = type(layer).from_config(config or layer.get_config())
    if getattr(layer, "weights", None):
        copied.build_from_config(layer.get_build_config())
        copied.set_weights(layer.get_weights())
        if isinstance(copied, keras.layers.Normalization):
            copied.finalize_state()  # mean and standard deviation, which follow from its weights
    return copied
