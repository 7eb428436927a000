"""Fine-tuning beside torch: images/s of a step, an epoch over its bare steps, macro F1 over time."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import torch_loop
from benchmarks.harness import (
    Clock,
    Curve,
    Report,
    Row,
    curves_figure,
    gain,
    in_turns,
    kept,
    medians,
    ratio,
    reached,
    small,
)
from benchmarks.input import records
from benchmarks.small_network import AUGMENT, FROZEN, network
from flowerlib import accelerator, augmentation, data, networks, predictions, training
from flowerlib.accelerator import keras, tf
from flowerlib.data import Flowers
from flowerlib.networks import backbones, fused_norm
from flowerlib.networks.weights import locate

SIZE, BATCH = 192, 32
GOAL = 0.95


def run(root: str, quick: bool) -> Report:
    """Measure single steps on one batch in memory, epochs with reading and augmenting, then whole trainings."""
    flowers = small(data.find(SIZE, root)) if quick else data.find(SIZE, root)
    rows, raw = [], {}
    for measure in (_steps, _epochs) if quick else (_steps, _dense_steps, _epochs):
        more, values = measure(flowers, quick)
        rows += more
        raw |= values
    curves = {}
    shortest = {"flowerlib": partial(ours, flowers, 2, sides=(224,)), "torch": partial(theirs, flowers, 1)}
    for name, (train, epochs) in {"flowerlib": (ours, 24), "torch": (theirs, 8)}.items():
        whole = partial(train, flowers, epochs)
        found = shortest[name]() if quick else kept(f"finetune-{name}", [epochs, flowers.fingerprint], whole)
        curve, views = [tuple(point) for point in found[0]], found[1]
        curves[name] = curve
        mine = name == "flowerlib"
        rows += [
            Row(f"{name}: minutes of training", curve[-1][0] / 60, "min", "<= 60" if mine else ""),
            Row(f"{name}: macro F1, one view", curve[-1][1], "macro F1", ">= 0.965" if mine else ""),
            Row(f"{name}: macro F1, several views", views, "macro F1", ">= 0.970" if mine else ""),
            Row(f"{name}: time to macro F1 {GOAL}", reached(curve, GOAL), "s"),
        ]
    faster = gain(curves["flowerlib"], curves["torch"], GOAL)
    rows.append(Row(f"time to macro F1 {GOAL}, torch / flowerlib (at least)", faster, "x", ">= 1.3"))
    return Report("finetune", rows, raw | {"curves": curves}, None if quick else curves_figure(curves, GOAL))


def _steps(flowers: Flowers, quick: bool) -> tuple[list[Row], dict]:
    """EfficientNet-Lite0, trained whole and with the same early blocks frozen; torch in both layouts of its memory."""
    classes = len(flowers.classes)
    images, labels = _batch(flowers, BATCH, SIZE)
    parts = {"early layers frozen": FROZEN} if quick else {"early layers frozen": FROZEN, "whole": (None, 0)}
    layouts = (", channels_last",) if quick else ("", ", channels_last")
    steps = 1 if quick else 4
    ways = {}
    for part, (before, blocks) in parts.items():
        mine = network(classes, before=before)
        with fused_norm.fused_batch_norm(mine):
            ways[f"flowerlib, {part}"] = _rate(partial(mine.train_on_batch, images, labels), BATCH, steps)
        for layout in layouts:
            model = torch_loop.lite0(locate(backbones.get("EfficientNetLite0").weights), classes)
            torch_loop.freeze(model, blocks)
            ways[f"torch, {part}{layout}"] = _rate(_torch(model, images, labels, last=bool(layout)), BATCH, steps)
    found = in_turns(ways, 1 if quick else 6)
    rows = [Row(f"a step of Lite0: {name}", value, "images/s") for name, value in medians(found).items()]
    for part in parts:
        for layout in layouts:
            times = ratio(found, f"flowerlib, {part}", f"torch, {part}{layout}")
            rows.append(Row(f"a step of Lite0, {part}: flowerlib / torch{layout}", times, "x", ">= 1.2"))
    return rows, {"Lite0 images/s": found}


def _dense_steps(flowers: Flowers, quick: bool) -> tuple[list[Row], dict]:
    """DenseNet201 at 224 px, random weights: its pretrained ones cannot be had in torch from a package."""
    side, batch, classes = 224, 8, len(flowers.classes)
    images, labels = _batch(flowers, batch, side)
    pooling = keras.layers.GlobalAveragePooling2D()
    backbone = networks.load("DenseNet201", side, "random")
    model = keras.Sequential([keras.Input((side, side, 3)), backbone, pooling, networks.head(classes)])
    model.compile(keras.optimizers.AdamW(5e-4), "categorical_crossentropy")
    with fused_norm.fused_batch_norm(model):
        ways = {"flowerlib": _rate(lambda: model.train_on_batch(images, labels), batch)}
    for last in (False, True):
        peer = _torch(torch_loop.densenet201(classes).train(), images, labels, last=last)
        ways["torch, channels_last" if last else "torch"] = _rate(peer, batch)
    found = in_turns(ways, 1 if quick else 4)
    rows = [Row(f"a step of DenseNet201: {name}", value, "images/s") for name, value in medians(found).items()]
    for name in ("torch", "torch, channels_last"):
        rows.append(Row(f"a step of DenseNet201: flowerlib / {name}", ratio(found, "flowerlib", name), "x"))
    return rows, {"DenseNet201 images/s": found}


def _epochs(flowers: Flowers, quick: bool) -> tuple[list[Row], dict]:
    """`fit` on augmented batches as they are read, beside as many calls of the compiled step on one batch in memory."""
    model, steps = network(len(flowers.classes)), 2 if quick else 60
    batches = _batches(flowers)
    same = iter(batches.take(1).cache().repeat())
    with training.prepared(model, batches, accelerator.setup()):
        model.fit(batches, steps_per_epoch=2, verbose=0, shuffle=False)  # compiles the step

    def bare() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            logs = model.train_function(same)
        float(logs["loss"])  # waits for the last
        return time.perf_counter() - began

    def epoch() -> float:
        began = time.perf_counter()
        model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
        return time.perf_counter() - began

    found = in_turns({"epoch": epoch, "bare steps": bare}, 1 if quick else 5)
    over = ratio(found, "epoch", "bare steps")
    row = Row(f"Lite0, {steps} steps: an epoch over its bare steps", over, "x", "<= 1.05")
    return [row], {f"seconds of {steps} steps": found}


def _batches(flowers: Flowers) -> tf.data.Dataset:
    mix = augmentation.with_probability(augmentation.cutmix, 0.5)
    return data.train_batches(flowers, BATCH, augment=AUGMENT, mix=mix)


def ours(flowers: Flowers, epochs: int, sides: tuple[int, ...] = (192, 208, 224)) -> tuple[Curve, float]:
    """As `03_finetune`; macro F1 of one view after every epoch, validation not counted, and of six at the end."""
    keras.utils.set_random_seed(0)
    clock = Clock()
    config = training.TrainConfig(
        "03_finetune", "EfficientNetLite0", SIZE, BATCH, epochs, peak_lr=5e-4, head_lr_multiplier=10,
        label_smoothing=0.1, dropout=0.3, mix="cutmix", mix_probability=0.5, eval_size=224, tta_sizes=sides,
        tta_flip=True,
    )  # fmt: skip
    run = training.Run(config, flowers, accelerator.setup())
    model = network(len(flowers.classes), optimizer=training.optimizer(run))
    curve: Curve = []

    def one_view() -> float:
        val = training.eval_batches(run, "val")
        return predictions.predict(model, val, config.eval_batch_size).scores()["macro_f1"]

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            curve.append(clock.pause(one_view))
            print(f"flowerlib: {curve[-1][0]:.0f} s, macro F1 {curve[-1][1]:.4f}", file=sys.stderr, flush=True)

    batches, steps = training.train_batches(run, AUGMENT)(start=0), run.steps_per_epoch
    with training.prepared(model, batches, run.device):
        model.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[Score()])
    [views] = training.predict(run, model, ["val"])
    return curve, views.scores()["macro_f1"]


def theirs(flowers: Flowers, epochs: int) -> tuple[Curve, float]:
    """`benchmarks/torch_loop.py`, in a process of its own."""
    given = {split: _jpegs(flowers, split) for split in ("train", "val")}
    given |= {"classes": len(flowers.classes), "epochs": epochs}
    with TemporaryDirectory() as place:
        path = Path(place) / "given.pickle"
        path.write_bytes(pickle.dumps(given | {"weights": locate(backbones.get("EfficientNetLite0").weights)}))
        command = [sys.executable, "-m", "benchmarks.torch_loop", path]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _jpegs(flowers: Flowers, split: str) -> tuple[list[bytes], list[int]]:
    found = [record.features.feature for record in records(flowers, split)]
    return [one["image"].bytes_list.value[0] for one in found], [one["class"].int64_list.value[0] for one in found]


def _batch(flowers: Flowers, batch: int, side: int) -> list[np.ndarray]:
    return [value.numpy() for value in next(iter(data.train_batches(flowers, batch, image_size=side)))]


def _rate(step: Callable[[], object], batch: int, steps: int = 4) -> Callable[[], float]:
    """Take a step, which compiles; return a function that takes so many and returns images a second."""
    step()

    def run() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * batch / (time.perf_counter() - began)

    return run


def _torch(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, *, last: bool) -> Callable[[], None]:
    layout = torch.channels_last if last else torch.contiguous_format
    model = model.to(memory_format=layout)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub(127).div(128).contiguous(memory_format=layout)
    truth = torch.from_numpy(labels)
    adamw = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-4)

    def step() -> None:
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), truth, label_smoothing=0.1).backward()
        adamw.step()

    return step
