"""A larger global batch: which learning rate? EfficientNet-Lite0, fine-tuned as in `03_finetune` but at 96 px.

A batch of 32 a replica is 256 on eight. The same number of epochs has an eighth of the steps, at the same rate, at one
higher by the square root of the batches' ratio (Malladi and others, arXiv 2205.10287), or by the ratio itself. Eight
devices take the very steps of one at the same global batch: `growth` holds their weights against each other.
"""

import math
import os
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from benchmarks.harness import Report, Row, kept, small
from benchmarks.small_network import AUGMENT, network
from flowerlib import accelerator, data, training
from flowerlib.accelerator import keras
from flowerlib.config import absolute
from flowerlib.data import Flowers

SIZE, EPOCHS, SEEDS = 96, 6, (0, 1)
SMALL, LARGE, RATE = 32, 256, 5e-4
WAYS = {
    f"batch {SMALL}": (SMALL, RATE),
    f"batch {LARGE}, the same rate": (LARGE, RATE),
    f"batch {LARGE}, rate by the square root": (LARGE, RATE * math.sqrt(LARGE / SMALL)),
    f"batch {LARGE}, rate by the ratio": (LARGE, RATE * LARGE / SMALL),
}


def run(root: str, quick: bool) -> Report:
    """Train once for each way and seed."""
    flowers = data.find(192, absolute(root))
    flowers = small(flowers) if quick else flowers
    epochs, seeds = (2, SEEDS[:1]) if quick else (EPOCHS, SEEDS)
    raw = {}
    for name, (batch_size, rate) in WAYS.items():
        what = [flowers.fingerprint, batch_size, rate, epochs]
        raw[name] = [
            kept(f"batch-{batch_size}-{rate:.5f}-{seed}", [*what, seed], partial(_train, flowers, *what[1:], seed))
            for seed in seeds
        ]
    rows = [Row(f"{name}: macro F1 after {epochs} epochs", mean(scores), "macro F1") for name, scores in raw.items()]
    return Report("batch", rows, {"macro F1": raw, "seeds": seeds})


def _train(flowers: Flowers, batch_size: int, rate: float, epochs: int, seed: int) -> float:
    """Return macro F1 on val, one view, after the last epoch."""
    keras.utils.set_random_seed(seed)
    config = training.TrainConfig(
        "batch", "EfficientNetLite0", SIZE, batch_size, epochs, peak_lr=rate, head_lr_multiplier=10,
        label_smoothing=0.1, dropout=0.3, mix="cutmix", mix_probability=0.5, seed=seed,
    )  # fmt: skip
    run = training.Run(config, flowers, accelerator.setup())
    model = network(len(flowers.classes), optimizer=training.optimizer(run))
    here = Path.cwd()
    with TemporaryDirectory() as place:
        os.chdir(place)
        try:
            history = training.fit(run, model, training.train_batches(run, AUGMENT), verbose=0)
        finally:
            os.chdir(here)
    return history["val_macro_f1"][-1]
