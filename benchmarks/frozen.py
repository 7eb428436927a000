"""Seconds until a frozen network's head reaches a macro F1: features once, beside the backbone in the loop.

Every clock starts before the network is built, so that building, compiling and extracting features all count.
Validation counts in none: it is the same for all, and how often it is done is not a property of the way. Then the
quickstart, as users run it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.harness import Clock, Curve, Report, Row, gain, reached, small
from benchmarks.input import KERAS, keras_batches
from benchmarks.torch_loop import lite0
from flowerlib import data, networks, predictions
from flowerlib.accelerator import keras, tf
from flowerlib.data import Flowers
from flowerlib.networks import backbones
from flowerlib.networks.weights import locate
from flowerlib.predictions import metrics
from flowerlib.training import features, heads

GOAL = 0.895
SIZE, BATCH = 192, 64
OURS = ("flowerlib, one view", "flowerlib, mirrored too")


def run(root: str, quick: bool) -> Report:
    """Measure the ways, one after the other."""
    flowers = small(data.find(SIZE, root)) if quick else data.find(SIZE, root)
    curves = {OURS[0]: ours(flowers, 5 if quick else 40)}
    if not quick:
        curves[OURS[1]] = ours(flowers, 40, flip=True)
    curves["backbone in the loop"] = in_the_loop(flowers, 1 if quick else 24)
    curves["torch and scikit-learn"] = scikit_learn(flowers)
    found = rows(curves) + ([] if quick else quickstart(root))
    return Report("frozen", found, {"curves": curves, "goal": GOAL, "in the loop reads": KERAS})


def rows(curves: dict[str, Curve]) -> list[Row]:
    """Return the best macro F1 of each, the seconds to the goal and to the best of the loop, and the gains."""
    loop = curves["backbone in the loop"]
    best = {name: max(score for _, score in curve) for name, curve in curves.items()}
    found = [Row(f"{name}: best macro F1", score, "macro F1") for name, score in best.items()]
    found += [Row(f"{name}: seconds to {GOAL}", reached(curve, GOAL), "s") for name, curve in curves.items()]
    for name in (name for name in OURS if name in curves):
        target = ">= 10" if name == OURS[0] else ""
        found += [
            Row(f"time to {GOAL}, backbone in the loop / {name}", gain(curves[name], loop, GOAL), "x", target),
            Row(
                f"time to the loop's best, likewise / {name}",
                gain(curves[name], loop, best["backbone in the loop"]),
                "x",
            ),
        ]
    return found


def ours(flowers: Flowers, epochs: int, flip: bool = False) -> Curve:
    """Features once, into an empty folder, then a head as `00_quickstart` trains it."""
    keras.utils.set_random_seed(0)
    clock = Clock()
    backbone = networks.freeze(networks.load("EfficientNetLite0", SIZE))
    feature_extractor = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), backbone, keras.layers.GlobalAveragePooling2D()]
    )
    with TemporaryDirectory() as place:
        kept = Path(place)
        train = features.extract(feature_extractor, flowers, "train", BATCH, flip=flip, folder=kept, progress=False)
        _, val = clock.pause(
            lambda: features.extract(feature_extractor, flowers, "val", BATCH, folder=kept, progress=False)
        )
        head = keras.Sequential([heads.standardization(train), networks.head(len(flowers.classes), 0.6, "zeros")])
        steps = flowers.count("train") // 128
        rate = keras.optimizers.schedules.CosineDecay(0.0, (epochs - 1) * steps, warmup_target=1e-3, warmup_steps=steps)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
        head.compile(keras.optimizers.AdamW(rate, weight_decay=0.1), loss)
        curve: Curve = []

        class Score(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
                curve.append(clock.pause(lambda: features.predict(head, val, 512).scores()["macro_f1"]))

        batches = features.train_batches(train, 128, len(flowers.classes))
        head.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[Score()])
    return curve


def in_the_loop(flowers: Flowers, epochs: int) -> Curve:
    """As the work this series started from: in every epoch the frozen network processes the images, augmented anew."""
    keras.utils.set_random_seed(0)
    clock = Clock()
    backbone = networks.load("EfficientNetLite0", SIZE)
    backbone.trainable = False
    classes = len(flowers.classes)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            backbone,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    val = data.eval_batches(flowers, "val", BATCH)
    curve: Curve = []

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            curve.append(clock.pause(lambda: predictions.predict(model, val, BATCH, flip=True).scores()["macro_f1"]))

    batches = keras_batches(flowers, 64).map(lambda images, labels: (images, tf.one_hot(labels, classes)))
    steps = flowers.count("train") // 64
    ahead = batches.prefetch(tf.data.AUTOTUNE)
    model.fit(ahead, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[Score()])
    return curve


def quickstart(root: str) -> list[Row]:
    """Return how long `00_quickstart` takes as users run it, from nothing and again, and how good it is."""
    seconds = []
    with TemporaryDirectory() as place:
        for out in ("first", "again"):
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "flowerlib", "run", "00_quickstart", "--data", root, "--out", f"{place}/{out}"],
                env=os.environ | {"XDG_CACHE_HOME": f"{place}/cache"},
                check=True,
                capture_output=True,
            )
            seconds.append(time.monotonic() - began)
        record = json.loads(Path(place, "first/runs/00_quickstart/run.json").read_text("utf-8"))
    return [
        Row("00_quickstart, from nothing to the submission", seconds[0], "s", "<= 300"),
        Row("00_quickstart, features kept", seconds[1], "s", "<= 60"),
        Row("00_quickstart: macro F1 on val", record["val_macro_f1"], "macro F1", ">= 0.905"),
    ]


def scikit_learn(flowers: Flowers) -> Curve:
    """The same network and weights in torch, one view, then scikit-learn's logistic regression; val mirrored too."""
    clock = Clock()
    network = lite0(locate(backbones.get("EfficientNetLite0").weights), len(flowers.classes)).eval()
    network = network.to(memory_format=torch.channels_last)

    def extract(split: str, *, flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
        values, labels = [], []
        with torch.inference_mode():
            for images, batch_labels, _ in data.eval_batches(flowers, split, BATCH).as_numpy_iterator():
                pixels = torch.from_numpy(images[:, :, ::-1].copy() if flip else np.array(images))
                pixels = pixels.permute(0, 3, 1, 2).float().sub(127).div(128)  # already channels_last
                values.append(network.extract_features(pixels).mean((2, 3)).numpy())
                labels.append(batch_labels)
        return np.concatenate(values), np.concatenate(labels)

    train, labels = extract("train")
    _, views = clock.pause(lambda: [extract("val"), extract("val", flip=True)])
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(train), labels)
    seconds = clock.now()
    probabilities = sum(fitted.predict_proba(scaler.transform(view)) for view, _ in views)
    predicted = fitted.classes_[probabilities.argmax(axis=1)]
    return [(seconds, metrics.macro_f1(views[0][1], predicted, len(flowers.classes)))]
