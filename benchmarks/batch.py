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

from benchmarks.finetune import network
from benchmarks.harness import Report, Row, kept, small
from flowerlib import accelerator, augmentation, data, training
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
    choices = training.TrainConfig(
        "batch", "EfficientNetLite0", True, SIZE, batch_size, epochs, warmup_epochs=1, peak_lr=rate, weight_decay=0.05,
        label_smoothing=0.1, dropout=0.3, mix="cutmix", seed=seed, head_lr_multiplier=10,
    )  # fmt: skip
    model = network(len(flowers.classes), optimizer=training.optimizer(choices, flowers))
    vary, mix = (
        augmentation.Augmentation(vertical_flip=False, crop=0.5),
        augmentation.with_probability(augmentation.cutmix, 0.5),
    )
    train = partial(data.train_batches, flowers, batch_size, image_size=SIZE, augment=vary, mix=mix, seed=seed)
    val = data.eval_batches(flowers, "val", choices.eval_batch_size, image_size=SIZE)
    here = Path.cwd()
    with TemporaryDirectory() as place:
        os.chdir(place)
        try:
            history = training.fit(model, train, val, choices, flowers, accelerator.setup(), verbose=0)
        finally:
            os.chdir(here)
    return history["val_macro_f1"][-1]
