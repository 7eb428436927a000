"""Fine-tuning EfficientNet-Lite0: images/s of a step, and macro F1 over time beside the plain torch loop."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.harness import Clock, Curve, Report, Row, curves_figure, in_turns, kept, medians, ratio, reached
from benchmarks.input import records
from benchmarks.torch_loop import lite0
from flowerlib import augment, backbones, data, heads, predictions, training
from flowerlib.accelerator import keras, tf
from flowerlib.data import Flowers
from flowerlib.weights import locate

SIZE, BATCH = 192, 32
GOAL = 0.95
OURS = "flowerlib, early layers frozen"
PLAIN, LAST = "torch, plain", "torch, channels_last"


def run(root: str, quick: bool) -> Report:
    """Measure single steps on one batch in memory, an epoch with reading and augmenting, then whole trainings."""
    flowers = data.find(SIZE, root)
    rows, raw = _speed(flowers, quick)
    trainings = {
        "flowerlib": (ours, 2 if quick else 24),
        "torch, plain loop": (theirs, 1 if quick else 8),
    }
    found = {
        name: kept(f"finetune-{train.__name__}", [epochs, flowers.fingerprint], lambda t=train, e=epochs: t(flowers, e))
        for name, (train, epochs) in trainings.items()
    }
    curves = {name: [tuple(point) for point in curve] for name, (curve, _) in found.items()}
    for name, (curve, views) in found.items():
        rows += [
            Row(f"{name}: minutes in all", curve[-1][0] / 60, "min", "<= 60" if name == "flowerlib" else ""),
            Row(f"{name}: macro F1, one view", curve[-1][1], "macro F1", ">= 0.965" if name == "flowerlib" else ""),
            Row(f"{name}: macro F1, several views", views, "macro F1", ">= 0.970" if name == "flowerlib" else ""),
            Row(f"{name}: seconds to {GOAL}", reached(curve, GOAL), "s"),
        ]
    gain = reached(curves["torch, plain loop"], GOAL) / reached(curves["flowerlib"], GOAL)
    rows.append(Row(f"time to macro F1 {GOAL}, torch / flowerlib", gain, "x", ">= 1.3"))
    return Report("finetune", rows, raw | {"curves": curves}, None if quick else curves_figure(curves, GOAL))


def _speed(flowers: Flowers, quick: bool) -> tuple[list[Row], dict]:
    images, labels = next(iter(data.train_batches(flowers, BATCH)))
    model, whole = network(len(flowers.classes)), network(len(flowers.classes), before=None)
    steps = in_turns(
        {
            OURS: _step(lambda: model.train_on_batch(images, labels)),
            "flowerlib, trained whole": _step(lambda: whole.train_on_batch(images, labels)),
            PLAIN: _torch(flowers, images.numpy(), labels.numpy(), last=False),
            LAST: _torch(flowers, images.numpy(), labels.numpy(), last=True),
        },
        2 if quick else 6,
    )
    count = 10 if quick else 80
    began = time.perf_counter()
    model.fit(_batches(flowers), steps_per_epoch=count, epochs=1, verbose=0, shuffle=False)
    epoch = time.perf_counter() - began
    bare = count * BATCH / medians(steps)[OURS]
    rows = [Row(f"a step: {name}", value, "images/s") for name, value in medians(steps).items()]
    rows += [
        Row("a step, flowerlib / torch plain", ratio(steps, OURS, PLAIN), "x", ">= 1.2"),
        Row("a step, flowerlib / torch channels_last", ratio(steps, OURS, LAST), "x"),
        Row("an epoch over its bare steps", epoch / bare, "x", "<= 1.05"),
    ]
    return rows, {"images/s": steps, "seconds of an epoch": epoch, "steps": count}


def network(
    classes: int, *, before: str | None = "block3_expand_conv", optimizer: keras.optimizers.Optimizer | None = None
) -> keras.Model:
    """The network of `03_finetune`, compiled; trained from the layer `before` on, or whole."""
    backbone = backbones.load("EfficientNetLite0", None)
    if before:
        backbones.freeze(backbone, before)
    pooling = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 3)), backbone, pooling, heads.linear(classes, 0.3)])
    optimizer = optimizer or keras.optimizers.AdamW(5e-4)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    return model


def _batches(flowers: Flowers) -> tf.data.Dataset:
    vary = augment.Augmentation(vertical_flip=False, crop=0.5)
    return data.train_batches(flowers, BATCH, augment=vary, mix=augment.sometimes(augment.cutmix, 0.5))


def ours(flowers: Flowers, epochs: int) -> tuple[Curve, float]:
    """As `03_finetune`; macro F1 of one view after every epoch, validation not counted, and of six at the end."""
    keras.utils.set_random_seed(0)
    clock = Clock()
    choices = training.Run(
        "03_finetune", "EfficientNetLite0", True, SIZE, BATCH, epochs, warmup_epochs=1, peak_lr=5e-4,
        weight_decay=0.05, label_smoothing=0.1, dropout=0.3, mix="cutmix", seed=0, eval_size=224, head_times=10,
    )  # fmt: skip
    model = network(len(flowers.classes), optimizer=training.optimizer(choices, flowers))
    steps = choices.steps_per_epoch(flowers)
    curve: Curve = []

    def look(side: int, mirror: bool) -> predictions.Predictions:
        return predictions.predict(model, data.eval_batches(flowers, "val", 128, image_size=side), 128, mirror=mirror)

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            curve.append(clock.pause(lambda: look(224, False).scores()["macro_f1"]))
            print(f"flowerlib: {curve[-1][0]:.0f} s, macro F1 {curve[-1][1]:.4f}", file=sys.stderr, flush=True)

    model.fit(_batches(flowers), steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[Score()])
    views = predictions.average([look(side, True) for side in (192, 208, 224)])
    return curve, views.scores()["macro_f1"]


def theirs(flowers: Flowers, epochs: int) -> tuple[Curve, float]:
    """`benchmarks/torch_loop.py`, in a process of its own."""
    classes = len(flowers.classes)
    given = {split: _jpegs(flowers, split) for split in ("train", "val")} | {"classes": classes, "epochs": epochs}
    with TemporaryDirectory() as place:
        path = Path(place) / "given.pickle"
        path.write_bytes(pickle.dumps(given | {"weights": locate(backbones.get("EfficientNetLite0").weights)}))
        command = [sys.executable, "-m", "benchmarks.torch_loop", path]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _jpegs(flowers: Flowers, split: str) -> tuple[list[bytes], list[int]]:
    found = [record.features.feature for record in records(flowers, split)]
    return [one["image"].bytes_list.value[0] for one in found], [one["class"].int64_list.value[0] for one in found]


def _step(step: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        for _ in range(4):
            step()
        return 4 * BATCH / (time.perf_counter() - began)

    return run


def _torch(flowers: Flowers, images: np.ndarray, labels: np.ndarray, *, last: bool) -> Callable[[], float]:
    model = lite0(locate(backbones.get("EfficientNetLite0").weights))
    model._fc = torch.nn.Linear(1280, len(flowers.classes))
    model.train()
    pixels, truth = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub(127).div(128), torch.from_numpy(labels)
    if last:
        model, pixels = (x.to(memory_format=torch.channels_last) for x in (model, pixels))
    else:
        pixels = pixels.contiguous()
    adamw = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), truth, label_smoothing=0.1).backward()
        adamw.step()

    return _step(step)
