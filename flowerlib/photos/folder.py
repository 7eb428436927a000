"""Convert a folder of photographs into a dataset in the competition's layout.

In two passes, so that memory does not grow with the data: first `chunks` makes a square JPEG of every photograph, on
disk beside the output; then `splitting` assigns them to train, val and test, and the shards are written.
"""

import hashlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from flowerlib import figures
from flowerlib.config import FlowersError, atomic_write
from flowerlib.photos import chunks, listing, splitting
from flowerlib.photos.listing import Photograph
from flowerlib.photos.photo import Fit
from flowerlib.tfrecords.records import Records
from flowerlib.tfrecords.shards import shard_name, write_shard

PIXELS_VERSION = 1  # raise it when a photograph would become other pixels
SPLITS_VERSION = 2  # raise it when photographs would be split otherwise
MAX_PER_SHARD = 1000  # images
MAX_ERRORS_SHOWN = 20
NUM_PREVIEW = 12  # images in preview.png
NOTE_BROKEN = "left out: "


def convert(
    source: Path,
    out: Path,
    *,
    image_size: int = 192,
    val: float = 0.15,
    test: float = 0.15,
    fit: Fit = "crop",
    seed: int = 0,
    skip_broken: bool = False,
    progress: bool = True,
) -> str:
    """Convert the photographs of `source` into a dataset in `out`; do nothing if `out` already holds exactly that.

    `out` gets `tfrecords-jpeg-<S>x<S>/{train,val,test}`, `classes.json`, `files.csv` (one line per file: `id`, `label`,
    `split` and a `note`; the only place with the labels of test) and `preview.png`; for later calls, `folder.json` and
    `preprocessing.json`. The folder appears whole or not at all. An interrupted call resumes.

    The splits are stratified by class. Copies and near-duplicates stay in one split.

    Args:
        source: as in `listing.find`.
        out: the folder to write.
        image_size: S, in pixels.
        val: share of each class for val.
        test: share of each class for test.
        fit: `crop` keeps the middle square of a photograph; `pad` keeps all of it, with grey stripes.
        seed: of the splits and the order of the images.
        skip_broken: whether to leave out files that cannot be read, instead of stopping.
        progress: whether to show progress bars.

    Returns:
        A summary of a few lines.

    Raises:
        FlowersError: as in `listing.find`; an argument is out of range; `out` holds something else; files cannot be
            read.
    """
    _check_arguments(image_size, val, test, fit, seed)
    out = Path(out).resolve()
    photographs = listing.find(source)
    recipe = _recipe(photographs, image_size, val, test, fit, seed, skip_broken)
    if _is_converted(out, recipe):
        return f"`{out}` holds this already."
    workspace = out.with_name(f".{out.name}.preparing") / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    prepared = chunks.prepare_all(photographs, workspace, image_size, fit, progress)
    table = _image_table(photographs, prepared)
    _require_readable(table, skip_broken)
    table["split"] = splitting.assign_splits(table, val, test, np.random.default_rng([seed, 0]))
    table = splitting.note_missing_splits(table)
    with atomic_write(out) as folder:
        images = chunks.open_jpegs(prepared, folder.name)
        _write_splits(table, images, folder, image_size, np.random.default_rng([seed, 1]), progress)
        _write_listing(table, folder)
        _write_preview(table, images, folder / "preview.png")
        (folder / "folder.json").write_text(recipe)
        (folder / "preprocessing.json").write_text(json.dumps({"fit": fit}))
    shutil.rmtree(workspace.parent)
    return _summary(table, out)


def _check_arguments(image_size: int, val: float, test: float, fit: str, seed: int) -> None:
    if not 32 <= image_size <= 4096:
        raise FlowersError(f"`image_size` (={image_size}) must be from 32 to 4096 px; the notebooks use 192")
    if not (val > 0 and test > 0 and val + test < 1):
        raise FlowersError(f"`val` (={val}) and `test` (={test}) must be above 0, and together below 1")
    if fit not in ("crop", "pad"):
        raise FlowersError(f"`fit` (={fit}) must be crop or pad")
    if seed < 0:
        raise FlowersError(f"`seed` (={seed}) must be 0 or more")


def _recipe(photographs: Sequence[Photograph], *choices: object) -> str:
    """Return everything that decides the bytes of the dataset, as JSON: the options, and the state of every file."""
    digest = hashlib.sha256()
    for photograph in photographs:
        try:
            status = photograph.path.stat()
            state = [status.st_size, status.st_mtime_ns]
        except OSError:
            state = []
        digest.update(json.dumps([photograph.id, photograph.label, *state]).encode())
    versions = {"version": PIXELS_VERSION, "division": SPLITS_VERSION}
    return json.dumps({**versions, "choices": choices, "files": len(photographs), "listing": digest.hexdigest()})


def _is_converted(out: Path, recipe: str) -> bool:
    """Return whether `out` holds the dataset of this recipe.

    Raises:
        FlowersError: it holds something else.
    """
    if (out / "folder.json").is_file() and (out / "folder.json").read_text() == recipe:
        return True
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowersError(f"`{out}` holds something else; name another folder, or remove it first")
    return False


def _image_table(photographs: Sequence[Photograph], prepared: Sequence[Path]) -> pd.DataFrame:
    """Return one row per file: `id`, `label`, `note`, `broken`, `group`."""
    table = chunks.load_table(photographs, prepared)
    broken = table["error"] != ""
    table = table.assign(broken=broken, note=(NOTE_BROKEN + table["error"]).where(broken, ""))
    return splitting.group_near_duplicates(table)[["id", "label", "note", "broken", "group"]]


def _require_readable(table: pd.DataFrame, skip_broken: bool) -> None:
    broken = table[table["broken"]]
    if len(broken) and not skip_broken:
        raise FlowersError(_list_broken(broken, len(table)))
    num_classes = table.loc[~table["broken"], "label"].nunique()
    if num_classes < 2:
        raise FlowersError(f"{num_classes} classes have a file that can be read; at least two must")


def _list_broken(broken: pd.DataFrame, num_files: int) -> str:
    lines = [f"{len(broken)} of {num_files} files cannot be used:"]
    shown = broken.head(MAX_ERRORS_SHOWN)
    lines += [f"  `{row.id}` {row.note.removeprefix(NOTE_BROKEN)}" for row in shown.itertuples()]
    if len(broken) > len(shown):
        lines.append(f"  and {len(broken) - len(shown)} more")
    return "\n".join([*lines, "repair or remove them, or leave them out with --skip-broken"])


def _write_splits(
    table: pd.DataFrame, images: Records, folder: Path, image_size: int, rng: np.random.Generator, progress: bool
) -> None:
    """Write the shards of each split, its images in random order."""
    classes = _classes(table)
    with tqdm(desc="writing", total=int((~table["broken"]).sum()), unit="img", disable=not progress) as bar:
        for split in ("train", "val", "test"):
            rows = rng.permutation(np.flatnonzero(table["split"] == split))
            for number, part in enumerate(np.array_split(rows, math.ceil(len(rows) / MAX_PER_SHARD))):
                labels = (classes.index(label) for label in table["label"].iloc[part])
                records = zip(images.fetch(part).tolist(), table["id"].iloc[part], labels, strict=True)
                path = folder / shard_name(split, number, image_size, len(part))
                write_shard(path, records, labelled=split != "test", bar=bar)


def _classes(table: pd.DataFrame) -> list[str]:
    return sorted(table.loc[~table["broken"], "label"].unique())


def _write_listing(table: pd.DataFrame, folder: Path) -> None:
    """Write `classes.json`, the names in label order, and `files.csv`, one line per file."""
    names = json.dumps(_classes(table), indent=1, ensure_ascii=False)
    (folder / "classes.json").write_text(names + "\n", encoding="utf-8")
    columns = table[["id", "label", "split", "note"]]
    columns.to_csv(folder / "files.csv", index=False, lineterminator="\n", errors="backslashreplace")


def _write_preview(table: pd.DataFrame, images: Records, path: Path) -> None:
    """Write a figure of a few training images with their labels, evenly spaced over the listing."""
    train = np.flatnonzero(table["split"] == "train")
    rows = np.unique(train[np.linspace(0, len(train) - 1, NUM_PREVIEW).astype(int)])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in images.fetch(rows)])
    figures.gallery(pixels, table["label"].iloc[rows].tolist()).savefig(path, dpi=100)


def _summary(table: pd.DataFrame, out: Path) -> str:
    counts = Counter(table["split"])
    sizes = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "val", "test"))
    lines = [
        f"`{out}`: {sizes} images, {table['label'].nunique()} classes; files.csv lists every file, preview.png shows "
        "some."
    ]
    meaning = {
        NOTE_BROKEN: "cannot be read and are left out",
        splitting.NOTE_SIMILAR: "duplicates or near-duplicates, kept in the split of the image they are like",
        splitting.NOTE_TOO_FEW: f"of classes with fewer than {splitting.MIN_PER_CLASS} different photographs, in train",
        splitting.NOTE_MISSING_SPLIT: "of classes that val or test lacks, as near-duplicates stay together",
    }
    for note, words in meaning.items():
        rows = table["note"].str.startswith(note)
        if rows.any():
            lines.append(f"{rows.sum():,} {words}: {table['id'][rows].iloc[0]} ...")
    return "\n".join(lines)
