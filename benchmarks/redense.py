"""What ReDense layers add to the quickstart's linear head: five seeds, of the head and of the random rotations.

Every seed chooses learning rate and weight decay of the linear head on a holdout of train, as `00_quickstart` does;
nothing is chosen on val, where all are scored with mirror images. The training loss is what ReDense minimizes: over all
training images and their mirror images, with label smoothing, without dropout.
"""

from functools import partial
from statistics import mean

from benchmarks.harness import Report, Row, kept, small
from flowerlib import accelerator, data, networks, training
from flowerlib.accelerator import keras
from flowerlib.config import absolute
from flowerlib.data import Flowers
from flowerlib.training import Features, features, redense

SIZE, SEEDS, MOST_LAYERS = 192, (0, 1, 2, 3, 4), 3
RECIPE = {"batch_size": 128, "epochs": 40, "label_smoothing": 0.1, "dropout": 0.6}  # 00_quickstart's, as the next line
PEAK_LRS, WEIGHT_DECAYS = (3e-4, 1e-3, 3e-3), (0.03, 0.1, 0.3)
SCORES = {"macro F1 on val": "macro F1", "log loss on val": "nats", "training loss": "nats"}


def run(root: str, quick: bool) -> Report:
    """Train a linear head for each seed, and put layers on it one by one."""
    flowers = data.find(SIZE, absolute(root))
    flowers = small(flowers) if quick else flowers
    extracted, found = _extract(flowers), []
    for seed in SEEDS[:1] if quick else SEEDS:
        recipe = RECIPE | {"seed": seed} | ({"epochs": 2} if quick else {})
        what = [flowers.fingerprint, recipe, redense.STEPS]
        found.append(kept(f"redense-{seed}", what, partial(_measure, flowers, extracted, recipe)))
    return Report("redense", rows(found), {"seeds": SEEDS, "scores": list(SCORES), "by seed and layers": found})


def rows(found: list[list[list[float]]]) -> list[Row]:
    """Return each score of the linear head, mean and span over the seeds, and how 1, 2, ... layers change it."""
    made = []
    for number, (score, unit) in enumerate(SCORES.items()):
        linear = [heads[0][number] for heads in found]
        made.append(Row(f"{score}: linear head ({min(linear):.4f} to {max(linear):.4f})", mean(linear), unit))
        for layers in range(1, MOST_LAYERS + 1):
            changes = [heads[layers][number] - heads[0][number] for heads in found]
            span = f"{min(changes):+.4f} to {max(changes):+.4f}"
            made.append(Row(f"{score}: change by {layers} ReDense ({span})", mean(changes), unit))
    return made


def _extract(flowers: Flowers) -> dict[str, Features]:
    """Features of train and val, as `00_quickstart` extracts them."""
    device = accelerator.setup()
    with device.scope():
        backbone = networks.freeze(networks.load("EfficientNetLite0", SIZE))
        pooling = keras.layers.GlobalAveragePooling2D(dtype="float32")
        network = networks.fold_batch_norm(keras.Sequential([keras.Input((SIZE, SIZE, 3)), backbone, pooling]))
    batch_size = 64 * device.num_replicas
    return {split: features.extract(network, flowers, split, batch_size) for split in ("train", "val")}


def _measure(flowers: Flowers, extracted: dict[str, Features], recipe: dict) -> list[list[float]]:
    """Return the three scores of the linear head, of that with one layer, and so on."""
    keras.utils.set_random_seed(recipe["seed"])
    config = training.TrainConfig("redense", "EfficientNetLite0", SIZE, fine_tune=False, smoke_test=True, **recipe)
    run = training.Run(config, flowers, accelerator.setup())  # a smoke test writes no checkpoint
    run, head, _ = training.fit_head(run, extracted, PEAK_LRS, WEIGHT_DECAYS)
    heads, losses = [head], list[float]()
    for _ in range(MOST_LAYERS):
        deeper, steps = training.add_redense_layer(run, heads[-1], extracted["train"])
        heads.append(deeper)
        losses = [*losses[:-1], steps[0], steps[-1]]
    scores = [training.predict_head(run, head, extracted["val"]).scores() for head in heads]
    return [[each["macro_f1"], each["loss"], loss] for each, loss in zip(scores, losses, strict=True)]
