"""What single tricks add: one change at a time to the recipe of `03_finetune`, at 96 px and in 6 epochs, three seeds.

The scores are macro F1 on val, one view, after the last epoch; each row is the mean difference from the plain recipe of
the same seeds, and the smallest and the largest. Images are small and epochs few: a trick that helps here may not at
full size.
"""

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

SIZE, EPOCHS, SEEDS = 96, 6, (0, 1, 2)
PLAIN = {
    **{"batch_size": 32, "epochs": EPOCHS, "peak_lr": 5e-4, "head_lr_multiplier": 10.0, "label_smoothing": 0.1},
    **{"dropout": 0.3, "mix": "cutmix", "mix_probability": 0.5},
}
TRICKS: dict[str, dict] = {
    "plain": {},
    "CLASS_WEIGHTS = balanced": {"class_weights": "balanced"},
    "CLASS_WEIGHTS = sqrt": {"class_weights": "sqrt"},
    "SAMPLING = balanced": {"sampling": "balanced"},
    "SAMPLING = sqrt": {"sampling": "sqrt"},
    "EMA = 0.99": {"ema": 0.99},
    "EMA = 0.999": {"ema": 0.999},
    "MIX = none": {"mix": "none"},
    "MIX_PROBABILITY = 1": {"mix_probability": 1.0},
    "MIX = mixup": {"mix": "mixup"},
    "LABEL_SMOOTHING = 0": {"label_smoothing": 0.0},
    "HEAD_LR_MULTIPLIER = 1": {"head_lr_multiplier": 1.0},
    "DROPOUT = 0": {"dropout": 0.0},
    "EVAL_SIZE = 112 (FixRes)": {"eval_size": 112},
}


def run(root: str, quick: bool) -> Report:
    """Train once for each trick and seed."""
    flowers = data.find(192, absolute(root))
    flowers = small(flowers) if quick else flowers
    seeds = SEEDS[:1] if quick else SEEDS
    tricks = dict(list(TRICKS.items())[:3]) if quick else TRICKS
    scores: dict[str, list[float]] = {}
    for name, changes in tricks.items():
        config = PLAIN | ({"epochs": 2} if quick else {}) | changes
        scores[name] = [
            kept(f"recipes-{name}-{seed}", [flowers.fingerprint, config, seed], partial(_train, flowers, config, seed))
            for seed in seeds
        ]
    rows = [Row("plain: macro F1 on val", mean(scores["plain"]), "macro F1")]
    for name, values in scores.items():
        if name != "plain":
            gains = [value - plain for value, plain in zip(values, scores["plain"], strict=True)]
            spread = f"{name}: gain ({min(gains):+.4f} to {max(gains):+.4f})"
            rows.append(Row(spread, mean(gains), "macro F1"))
    return Report("recipes", rows, {"macro F1": scores, "seeds": seeds})


def _train(flowers: Flowers, recipe: dict, seed: int) -> float:
    """Return macro F1 on val, one view, of the weights that are kept."""
    keras.utils.set_random_seed(seed)
    config = training.TrainConfig("recipes", "EfficientNetLite0", SIZE, seed=seed, **recipe)
    run = training.Run(config, flowers, accelerator.setup())
    options = {"dropout": config.dropout, "optimizer": training.optimizer(run), "loss": training.loss(run)}
    model = network(len(flowers.classes), **options)
    here = Path.cwd()
    with TemporaryDirectory() as place:
        os.chdir(place)
        try:
            training.fit(run, model, training.train_batches(run, AUGMENT), verbose=0)
            [val] = training.predict(run, model, splits=("val",))
        finally:
            os.chdir(here)
    return val.scores()["macro_f1"]
