"""Find a dataset, describe it, tell it apart from others by its content.

The layout is the competition's: `<root>/tfrecords-jpeg-<S>x<S>/{train,val,test}/<NN>-<S>x<S>-<COUNT>.tfrec`.
Every folder is reached through TensorFlow's own file API, so a `gs://` root works like a folder.
"""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from flowerlib.config import FlowersError, cache_dir, competition_dir, competition_mounts, sample_dir
from flowerlib.data import classes, storage

SPLITS = ("train", "val", "test")
LABELLED = SPLITS[:2]
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".tif", ".tiff", ".gif", ".bmp")
MAX_FILES_SEEN = 10_000
SHARD = re.compile(r"\d+-(\d+)x\1-(\d+)\.tfrec")


@dataclass(frozen=True)
class Flowers:
    """One dataset at one image size.

    Attributes:
        root: the folder that holds `tfrecords-jpeg-<S>x<S>`.
        image_size: S, the side in pixels of the stored JPEGs.
        classes: names in label order.
        shards: for each split the paths of its files, in the order of their names.
        hashes: the path of each file -> the SHA-256 of its content.
        fingerprint: 12 hex digits of the SHA-256 over every shard's split, name and content, and over the selection.
        fit: how photographs became squares, `crop` or `pad`, as `preprocessing.json` tells, which `folder` leaves.
        limit: how many images of each split are used, the first ones; None for all.
        selection: for train and val, where they are not the splits' own, as `fold` makes them: the places of their
            images in the files of train, followed by those of val, in this order.
    """

    root: str
    image_size: int
    classes: tuple[str, ...]
    shards: dict[str, tuple[str, ...]]
    hashes: dict[str, str]
    fingerprint: str
    fit: str = "crop"
    limit: int | None = None
    selection: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """Return the number of images of a split, as its file names tell it, at most `limit`; or those selected."""
        if split in self.selection:
            return len(self.selection[split])
        stored = self.num_stored(split)
        return stored if self.limit is None else min(stored, self.limit)

    def num_stored(self, split: str) -> int:
        """Return the number of images in the files of a split, as their names tell it."""
        return sum(num_records(path) for path in self.shards[split])

    def __str__(self) -> str:
        counts = ", ".join(f"{self.count(split):,} {split}" for split in SPLITS)
        size = f"{self.image_size} x {self.image_size} px"
        return f"{self.root}: {counts} images of {size}, {len(self.classes)} classes (data {self.fingerprint})"


def num_records(path: str) -> int:
    """Return how many records a file holds, as its name `<NN>-<S>x<S>-<COUNT>.tfrec` tells it."""
    return int(PurePosixPath(path).stem.rsplit("-", 1)[1])


def find(image_size: int | None = None, path: str | None = None, *, nearest: bool = False) -> Flowers:
    """Find the dataset: at `path`, else `FLOWERS_DATA`, else Kaggle's, else that of `flowerlib data`, else the sample.

    A place that is named, by `path` or by `FLOWERS_DATA`, is the only one searched, and where `FLOWERS_KAGGLE` names
    what is mounted, what comes after is not: a slip in a name must not end in training on something else.

    Args:
        image_size: side in pixels of the stored images; the competition provides 192, 224, 331 and 512. None takes
            the smallest there is.
        nearest: whether, where `image_size` is absent, the next larger size is taken, or the largest there is.
        path: a folder, `~` expanded, or any address that TensorFlow reads, such as `gs://bucket/folder`.

    Raises:
        FlowersError: nothing found (every place searched is listed), the size is absent (those that are there are
            listed), a split is empty, a file name does not fit the layout, one file serves two splits, or a place
            cannot be read.
    """
    named = path or os.environ.get("FLOWERS_DATA")
    places, instead = _candidate_roots(named)
    found = {place: sizes for place in places if (sizes := _sizes(place))}
    if not found:
        if named:
            _refuse_lookalikes(places[0])
        searched = ", ".join(f"`{place}`{_why_unreadable(place)}" for place in places)
        raise FlowersError(
            f"no flowers found: no folder `tfrecords-jpeg-<S>x<S>` in {searched}; name the folder that holds them with "
            f"--data or FLOWERS_DATA{instead}"
        )
    root, sizes = next(iter(found.items()))
    image_size = image_size or sizes[0]
    if nearest:
        image_size = next((size for size in sizes if size >= image_size), sizes[-1])
    if image_size not in sizes:
        raise FlowersError(f"`image_size` (={image_size}) must be one of {tuple(sizes)}, the sizes in `{root}`")
    folder = _join(root, f"tfrecords-jpeg-{image_size}x{image_size}")
    shards = {split: _shards(_join(folder, split), image_size) for split in SPLITS}
    hashes = _hashes(shards)
    return Flowers(root, image_size, _classes(root), shards, hashes, _fingerprint(shards, hashes), _fit(root))


def local_files(flowers: Flowers, split: str) -> list[str]:
    """Return the paths of a split's files on this machine; those elsewhere are fetched once, and kept in the cache."""
    fingerprint, paths = _fingerprint(flowers.shards, flowers.hashes), flowers.shards[split]  # whatever is selected
    folder = cache_dir() / "records" / f"{fingerprint}-{split}"
    shown = tqdm(paths, f"fetching {split}", leave=False, disable="://" not in flowers.root)
    return [str(storage.local_copy(path, folder, flowers.hashes[path])) for path in shown]


def _candidate_roots(named: str | None) -> tuple[list[str], str]:
    """Where to look, and what else to do where nothing is there."""
    if named:
        return [os.path.expanduser(named)], ""
    mounts = [str(mount) for mount in competition_mounts()]
    if os.environ.get("FLOWERS_KAGGLE"):
        return mounts, ", or unset FLOWERS_KAGGLE"
    instead = (
        ", fetch the competition's with `flowerlib data`, or use `flowerlib run --sample`, which draws a small "
        "synthetic dataset"
    )
    return [*mounts, str(competition_dir()), str(sample_dir())], instead


def _refuse_lookalikes(place: str) -> None:
    """Say what to do with photographs, with an archive, and with a folder inside of a dataset."""
    path = Path(place)
    if "://" in place or not path.exists():
        return
    if re.match(r"tfrecords-jpeg-", path.name) or re.match(r"tfrecords-jpeg-", path.resolve().parent.name):
        root = path if path.name.startswith("tfrecords-jpeg-") else path.resolve().parent
        raise FlowersError(f"`{place}` is a folder of a dataset; name the dataset's own: --data {root.parent}")
    if path.is_file() or _has_photographs(path):
        what = "is a file" if path.is_file() else "holds photographs"
        raise FlowersError(
            f"`{place}` {what}, and no dataset; make one of the photographs first: "
            f"flowerlib folder {place} my-flowers, then --data my-flowers"
        )


def _has_photographs(folder: Path) -> bool:
    """Whether there is a file that looks like one among the first below a folder."""
    files = islice((name for _, _, names in os.walk(folder) for name in names), MAX_FILES_SEEN)
    return any(name.lower().endswith(PHOTOGRAPHS) for name in files)


def _why_unreadable(place: str) -> str:
    """Why nothing is found in a place, in brackets, where that can be told."""
    if "://" in place:
        return "" if storage.names(place) else " (not there)"
    try:
        os.stat(place)
    except FileNotFoundError:
        return " (not there)"
    except OSError as error:
        return f" ({error.strerror})"
    return ""


def _join(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/"), *parts])


def _sizes(root: str) -> list[int]:
    matches = [re.fullmatch(r"tfrecords-jpeg-(\d+)x\1", name) for name in storage.names(root)]
    return sorted(int(match[1]) for match in matches if match)


def _shards(folder: str, image_size: int) -> tuple[str, ...]:
    names = [name for name in storage.names(folder) if name.endswith(".tfrec")]
    if not names:
        raise FlowersError(f"`{folder}` has no .tfrec files; each of {SPLITS} needs at least one")
    for name in names:
        if not (match := SHARD.fullmatch(name)) or int(match[1]) != image_size:
            raise FlowersError(
                f"`{_join(folder, name)}` is not named <NN>-<S>x<S>-<COUNT>.tfrec with S {image_size}, and the name is "
                "what tells its count"
            )
    return tuple(_join(folder, name) for name in names)


def _classes(root: str) -> tuple[str, ...]:
    path = _join(root, "classes.json")
    content = storage.read(path)
    return classes.CLASSES if content is None else classes.parse(content, path)


def _fit(root: str) -> str:
    path = _join(root, "preprocessing.json")
    content = storage.read(path)
    if content is None:
        return "crop"
    try:
        fit = json.loads(content)["fit"]
    except (ValueError, KeyError, TypeError):
        fit = None
    if fit not in ("crop", "pad"):
        raise FlowersError(
            f'`{path}` must say {{"fit": "crop"}} or {{"fit": "pad"}}, not {content[:80]!r}; or remove it'
        )
    return fit


def _hashes(shards: dict[str, tuple[str, ...]]) -> dict[str, str]:
    paths = [path for split in SPLITS for path in shards[split]]
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(storage.sha256, paths), strict=True))


def _fingerprint(shards: dict[str, tuple[str, ...]], hashes: dict[str, str]) -> str:
    """Return the fingerprint; refuse a file that stands in two splits."""
    places = [(split, path) for split in SPLITS for path in shards[split]]
    seen: dict[str, tuple[str, str]] = {}
    for split, path in places:
        other_split, other = seen.setdefault(hashes[path], (split, path))
        if other_split != split:
            raise FlowersError(
                f"`{path}` is the same file as `{other}`: an image of one split must never enter another; "
                "remove one of them"
            )
    lines = [f"{split}/{PurePosixPath(path).name} {hashes[path]}" for split, path in places]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
