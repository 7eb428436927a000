"""Fine-tuning EfficientNet-Lite0 at 192 px: images/s of a training step, and of whole epochs, beside torch."""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.frozen import lite0
from benchmarks.harness import Report, Row, in_turns, medians, ratio
from flowerlib import augment, backbones, data, heads
from flowerlib.accelerator import keras, tf
from flowerlib.weights import locate

SIZE, BATCH = 192, 32
OURS = "flowerlib, statistics frozen"
PLAIN, LAST, FROZEN = "torch, plain", "torch, channels_last", "torch, channels_last, statistics frozen"


def run(root: str, quick: bool) -> Report:
    """Measure single steps on one batch in memory, then whole epochs with reading and augmenting."""
    flowers = data.find(SIZE, root)
    classes = len(flowers.classes)
    images, labels = next(iter(data.train_batches(flowers, BATCH)))
    model = network(classes)
    steps = in_turns(
        {
            OURS: _step(lambda: model.train_on_batch(images, labels)),
            "flowerlib, statistics trained": _keras_trained(classes, images, labels),
            PLAIN: _torch(classes, images.numpy(), labels.numpy(), last=False, frozen=False),
            LAST: _torch(classes, images.numpy(), labels.numpy(), last=True, frozen=False),
            FROZEN: _torch(classes, images.numpy(), labels.numpy(), last=True, frozen=True),
        },
        2 if quick else 6,
    )
    count = 10 if quick else 80
    batches = data.train_batches(flowers, BATCH, augment=augment.Augmentation())
    began = time.perf_counter()
    model.fit(batches, steps_per_epoch=count, epochs=1, verbose=0, shuffle=False)
    epoch = time.perf_counter() - began
    bare = count * BATCH / medians(steps)[OURS]
    rows = [Row(f"a step: {name}", value, "images/s") for name, value in medians(steps).items()]
    rows += [
        Row("a step, flowerlib / torch plain", ratio(steps, OURS, PLAIN), "x", ">= 1.2"),
        Row("a step, flowerlib / torch channels_last, both frozen", ratio(steps, OURS, FROZEN), "x"),
        Row("an epoch over its bare steps", epoch / bare, "x", "<= 1.05"),
    ]
    return Report("finetune", rows, {"images/s": steps, "seconds of an epoch": epoch, "steps": count})


def network(classes: int, *, frozen: bool = True) -> keras.Model:
    """The whole network with a new head, compiled; `frozen` are the statistics of its normalisation."""
    backbone = backbones.load("EfficientNetLite0", SIZE)
    for layer in backbone.layers[-1].layers:
        if frozen and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    pixels = keras.Input((SIZE, SIZE, 3))
    model = keras.Sequential([pixels, backbone, keras.layers.GlobalAveragePooling2D(), heads.linear(classes)])
    model.compile(keras.optimizers.AdamW(1e-4), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    return model


def _step(step: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        for _ in range(4):
            step()
        return 4 * BATCH / (time.perf_counter() - began)

    return run


def _keras_trained(classes: int, images: tf.Tensor, labels: tf.Tensor) -> Callable[[], float]:
    model = network(classes, frozen=False)
    return _step(lambda: model.train_on_batch(images, labels))


def _torch(classes: int, images: np.ndarray, labels: np.ndarray, *, last: bool, frozen: bool) -> Callable[[], float]:
    model = lite0(locate(backbones.get("EfficientNetLite0").weights))
    model._fc = torch.nn.Linear(1280, classes)
    model.train()
    pixels, truth = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub(127).div(128), torch.from_numpy(labels)
    if frozen:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval().requires_grad_(False)
    if last:
        model, pixels = (x.to(memory_format=torch.channels_last) for x in (model, pixels))
    else:
        pixels = pixels.contiguous()
    adamw = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-4)

    def step() -> None:
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), truth, label_smoothing=0.1).backward()
        adamw.step()

    return _step(step)
