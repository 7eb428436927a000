"""Write a synthetic flower dataset in the competition's layout, for trying everything out without Kaggle.

Each class is an invented species. 1,500 pictures at 192 px take about 15 s on two cores. The same seed
gives the same bytes, whatever the number of cores.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flowerlib.config import SAMPLE_VERSION as VERSION
from flowerlib.config import FlowersError, atomic_write
from flowerlib.parallel import parallel_map
from flowerlib.sample import pictures
from flowerlib.sample.painting import Array, Rng
from flowerlib.sample.pictures import Job
from flowerlib.sample.species import MAX_CLASSES, choose_species
from flowerlib.tfrecords.shards import shard_name, write_shard

IMAGE_SIZES = (192, 224, 331, 512)
NUM_SHARDS = {"train": 8, "val": 4, "test": 4}
HELD_OUT = 0.2  # of each class for val, and for test; the competition's 0.16 and 0.31 leave too few for training
DUPLICATE_EVERY = 25  # of so many images of val and test, one is a near-duplicate of one of train
MIN_PER_CLASS = 5  # 3 train, 1 val, 1 test


def num_classes(num_images: int) -> int:
    """Return the number of classes of a sample of `num_images`: from 4 to 112; 21 for 1,500 images."""
    return int(np.clip(round(0.55 * num_images**0.5), 4, MAX_CLASSES))


def _labels(num_images: int, count: int, rng: Rng) -> dict[str, Array]:
    """Return each split's labels in random order; class sizes form a geometric series, as uneven as the competition's.

    The ends are about 11 to 1 at 1,500 images; every class has a share of each split.
    """
    weights = rng.permutation(np.geomspace(1, 16, count))
    ends = np.round(np.cumsum(weights) / weights.sum() * (num_images - MIN_PER_CLASS * count)).astype(int)
    sizes = MIN_PER_CLASS + np.diff(ends, prepend=0)
    held_out = np.round(HELD_OUT * sizes).astype(int)
    counts = {"train": sizes - 2 * held_out, "val": held_out, "test": held_out}
    return {split: rng.permutation(np.repeat(np.arange(count), counts[split])) for split in NUM_SHARDS}


def _scenes(labels: Array, num_train: int) -> list[int]:
    """Return the number of each picture's scene: its own, but for a few of val and test that repeat one of train.

    So there is something to find for who looks for near-duplicates across splits.
    """
    scenes = list(range(len(labels)))
    for number in range(num_train, len(labels), DUPLICATE_EVERY):
        same_class = np.flatnonzero(labels[:num_train] == labels[number])
        scenes[number] = int(same_class[number % len(same_class)])
    return scenes


def _ids(num_images: int, rng: Rng) -> list[str]:
    """Return distinct ids of 9 hex digits: multiplication by an odd factor permutes the integers below 16^9."""
    start, factor = (int(number) for number in rng.integers(16**9, size=2))
    return [f"{(start + number * (factor | 1)) % 16**9:09x}" for number in range(num_images)]


def _shards(labels: dict[str, Array], image_size: int) -> Iterator[tuple[str, str, Array]]:
    """Yield each shard's split, its path below the dataset's folder, and its labels; lengths differ by at most one."""
    for split, split_labels in labels.items():
        for number, part in enumerate(np.array_split(split_labels, NUM_SHARDS[split])):
            yield split, shard_name(split, number, image_size, len(part)), part


def _check_arguments(image_size: int, num_images: int, seed: int) -> None:
    min_images = 2 * MIN_PER_CLASS * num_classes(0)
    if image_size not in IMAGE_SIZES:
        raise FlowersError(f"`image_size` (={image_size}) must be one of {IMAGE_SIZES}, the sizes the competition has")
    if num_images < min_images:
        raise FlowersError(
            f"`num_images` (={num_images}) must be at least {min_images}: {num_classes(0)} classes, each in all splits"
        )
    if seed < 0:
        raise FlowersError(f"`seed` (={seed}) must be 0 or more")


def _is_written(out: Path, recipe: dict[str, int]) -> bool:
    """Return whether `out` already holds exactly this sample.

    Raises:
        FlowersError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    recipe_file = out / "sample.json"
    if recipe_file.is_file() and recipe_file.read_text("utf-8") == json.dumps(recipe):
        return True
    raise FlowersError(f"`{out}` exists and is not this sample ({recipe}); name another folder, or remove it first")


def write(out: Path, *, image_size: int = 192, num_images: int = 1500, seed: int = 0, progress: bool = True) -> None:
    """Write a synthetic flower dataset in the competition's layout; do nothing if `out` already holds it.

    `<out>/tfrecords-jpeg-<S>x<S>/{train,val,test}` in the ratio 60 : 20 : 20, `<out>/classes.json` and
    `<out>/sample_submission.csv`. The folder appears whole or not at all.

    Args:
        out: the folder to write.
        image_size: S, in pixels; one of `IMAGE_SIZES`.
        num_images: over train, val and test together.
        seed: of everything; the same seed gives the same bytes.
        progress: whether to show a progress bar.

    Raises:
        FlowersError: an argument is out of range, or `out` holds something else.
    """
    _check_arguments(image_size, num_images, seed)
    out, recipe = Path(out), {"image_size": image_size, "num_images": num_images, "seed": seed, "version": VERSION}
    if _is_written(out, recipe):
        return
    rng = np.random.default_rng([seed, 0])
    species = choose_species(num_classes(num_images), rng)
    labels, ids = _labels(num_images, len(species), rng), _ids(num_images, rng)
    every_label = np.concatenate(list(labels.values()))
    scenes = _scenes(every_label, len(labels["train"]))
    jobs = [Job(number, species[label], scenes[number]) for number, label in enumerate(every_label)]
    draw = partial(pictures.draw_jpeg, image_size=image_size, seed=seed)
    with (
        atomic_write(out) as folder,
        parallel_map(draw, jobs) as images,
        tqdm(desc="drawing flowers", total=num_images, unit="image", disable=not progress) as bar,
    ):
        remaining_ids = iter(ids)
        for split, path, part in _shards(labels, image_size):
            records = ((next(images), next(remaining_ids), label) for label in part)
            write_shard(folder / path, records, labelled=split != "test", bar=bar)
        lines = ["id,label", *(f"{name},0" for name in ids[-len(labels["test"]) :])]
        (folder / "sample_submission.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "classes.json").write_text(
            json.dumps([kind.name for kind in species], indent=1) + "\n", encoding="utf-8"
        )
        (folder / "sample.json").write_text(json.dumps(recipe), encoding="utf-8")
