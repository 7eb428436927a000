"""Which networks at which sizes: what the features of `00_quickstart` cost, and how good a head on them is.

Seconds are of the processor, all cores together, so that a machine which others use measures the same; on an idle one
with two cores about half as many pass. Choices are made by the holdout, a fifth of train; val is only told.
"""

import shutil
import time
from dataclasses import replace

import numpy as np

from benchmarks.harness import PARTS, Report, Row, kept, small
from flowerlib import accelerator, data, networks, training
from flowerlib.data import Flowers
from flowerlib.series import notebooks
from flowerlib.training import Features, Run, features, heads

STORED, BATCH = 192, 64
LITE0, LITE1, LITE2 = (f"EfficientNetLite{number}" for number in range(3))
COMBINATIONS = (
    ((LITE0, 192),),
    ((LITE0, 256),),
    ((LITE0, 192), (LITE0, 224)),
    ((LITE0, 192), (LITE0, 256)),
    ((LITE0, 192), (LITE0, 288)),
    ((LITE0, 192), (LITE0, 256), (LITE0, 320)),
    ((LITE2, 288),),
    ((LITE0, 192), (LITE0, 288), (LITE2, 288)),
    ((LITE0, 192), (LITE0, 288), (LITE2, 192), (LITE2, 288)),
    ((LITE0, 192), (LITE0, 288), (LITE1, 192), (LITE1, 288), (LITE2, 192), (LITE2, 288)),
)
Members = tuple[tuple[str, int], ...]  # networks, each with a size


def run(root: str, quick: bool) -> Report:
    """Extract the features of each network at each size once, then train a head on each combination."""
    flowers = data.find(STORED, root)
    flowers = small(flowers) if quick else flowers
    device = accelerator.setup()
    given = notebooks.defaults(notebooks.NOTEBOOKS / "00_quickstart.ipynb")
    session = Run(training.configure(given, device), flowers, device)
    grid = given["PEAK_LRS"], given["WEIGHT_DECAYS"]
    combinations = COMBINATIONS[:1] if quick else COMBINATIONS
    rows = [row for members in combinations for row in _measured(session, members, grid)]
    shutil.rmtree(PARTS / "quickstart", ignore_errors=True)
    return Report("quickstart", rows)


def _measured(session: Run, members: Members, grid: tuple) -> list[Row]:
    """Return the cost and the scores of one combination, with mirror images and without."""
    name = " + ".join(f"{network.removeprefix('EfficientNet')} {size}" for network, size in members)
    found = [_extracted(session.flowers, *member) for member in members]
    seconds = sum(seconds for seconds, _ in found)
    both = {split: _side_by_side([extracted[split] for _, extracted in found]) for split in ("train", "val")}
    alone = {split: replace(each, values=each.values[:1], num_original=1) for split, each in both.items()}
    rows = []
    for views, extracted in ((2, both), (1, alone)):
        what = f"{name}{', mirrored too' if views == 2 else ''}"
        scores = kept(
            f"quickstart-{what.replace(' ', '')}",
            [session.flowers.fingerprint, *map(list, grid), session.config.epochs],
            lambda extracted=extracted: _scores(session, extracted, grid),
        )
        rows += [
            Row(f"{what}: features", seconds * views / 2, "CPU s"),
            Row(f"{what}: macro F1 on the holdout", scores[0], "macro F1"),
            Row(f"{what}: macro F1 on val", scores[1], "macro F1"),
            Row(f"{what}: head", scores[2], "CPU s"),
        ]
    return rows


def _extracted(flowers: Flowers, network: str, size: int) -> tuple[float, dict[str, Features]]:
    """Return the seconds that features of all splits took, and the features; kept where a benchmark was stopped."""
    folder = PARTS / "quickstart" / f"{network}-{size}"
    extractor = networks.fold_batch_norm(networks.feature_extractor((network,), (size,), STORED))

    def extract() -> dict[str, Features]:
        return {split: features.extract(extractor, flowers, split, BATCH, folder=folder) for split in data.SPLITS}

    def measure() -> list[float]:
        shutil.rmtree(folder, ignore_errors=True)  # a part would be taken from there
        began = time.process_time()
        extract()
        return [time.process_time() - began]

    [seconds] = kept(f"quickstart-{network}-{size}", [flowers.fingerprint], measure)
    return seconds, extract()


def _side_by_side(parts: list[Features]) -> Features:
    return replace(parts[0], values=np.concatenate([part.values for part in parts], axis=-1))


def _scores(session: Run, extracted: dict[str, Features], grid: tuple) -> list[float]:
    """Choose a head as `fit_head` does; return macro F1 on the holdout and on val, and the seconds of it all."""
    began = time.process_time()
    table = heads.search(session, extracted["train"], *grid)
    best = table.loc[table["macro_f1"].idxmax()]
    [head] = heads.train_heads(
        session, extracted["train"], [heads.HeadConfig(float(best["peak_lr"]), float(best["weight_decay"]))]
    )
    val = training.predict_head(session, head, extracted["val"]).scores()["macro_f1"]
    return [float(best["macro_f1"]), val, time.process_time() - began]
