"""Convert photographs into a dataset in the competition's layout.

In two passes, so that memory does not grow with the data: first `chunks` makes a square JPEG of every photograph, on
disk beside the output; then `splitting` assigns them to train, val and test, and the shards are written.
"""

import csv
import hashlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from flowerlib import figures
from flowerlib.config import FlowersError, atomic_write
from flowerlib.photos import archives, chunks, listing, names, splitting
from flowerlib.photos.listing import Photograph, Reading
from flowerlib.photos.photo import Fit
from flowerlib.tfrecords.records import Records
from flowerlib.tfrecords.shards import shard_name, write_shard

PIXELS_VERSION = 2  # raise it when a photograph would become other pixels
SPLITS_VERSION = 3  # raise it when photographs would be split otherwise
MAX_PER_SHARD = 1000  # images
MAX_ERRORS_SHOWN = 20
MAX_LABELS_SHOWN = 12
NUM_PREVIEW = 12  # images in preview.png
NOTE_BROKEN = "left out: "
RECIPE, LISTING = "folder.json", "files.csv"


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
    reading: Reading | None = None,
    progress: bool = True,
) -> str:
    """Convert the photographs of `source` into a dataset in `out`; do nothing if `out` already holds exactly that.

    `out` gets `tfrecords-jpeg-<S>x<S>/{train,val,test}`, `classes.json`, `files.csv` (one line per file: `id`, `label`,
    `split`, a `note` and the SHA-256 of its `content`; the only place with the labels of test) and `preview.png`; for
    later calls, `folder.json` and `preprocessing.json`. The folder appears whole or not at all. An interrupted call
    resumes.

    The splits that the source has are kept; otherwise they are stratified by class. Copies and near-duplicates stay in
    one split. Where `out` holds a dataset of the same photographs and some more or fewer, it is updated: each
    photograph keeps its split.

    Args:
        source: as in `listing.find`, or a zip or tar file of such a folder.
        out: the folder to write.
        image_size: S, in pixels.
        val: share of each class for val.
        test: share of each class for test.
        fit: `crop` keeps the middle square of a photograph; `pad` keeps all of it, with grey stripes.
        seed: of the splits and the order of the images.
        skip_broken: whether to leave out pictures that cannot be read, instead of stopping.
        reading: how to read the source, where it is not to be recognized.
        progress: whether to show progress bars.

    Returns:
        A summary of a few lines.

    Raises:
        FlowersError: as in `listing.find`; an argument is out of range; `out` holds something else, or lies in the
            source; files cannot be read.
    """
    _check_arguments(image_size, val, test, fit, seed)
    source, out, reading = Path(source), Path(out).resolve(), reading or Reading()
    if source.is_dir() and out.is_relative_to(source.resolve()):
        raise FlowersError(f"`{out}` lies in `{source}`, where the next call would take it for a class; name another")
    choices = {"image_size": image_size, "val": val, "test": test, "fit": fit, "seed": seed}
    workspace = out.with_name(f".{out.name}.preparing")
    folder_of_photographs = source
    if archives.is_archive(source):
        folder_of_photographs = workspace / f"unpacked-{hashlib.sha256(_state(source).encode()).hexdigest()[:16]}"
        archives.unpack(source, folder_of_photographs)
    try:
        found = listing.find(folder_of_photographs, reading)
    except FlowersError as error:
        if folder_of_photographs != source:
            shutil.rmtree(folder_of_photographs, ignore_errors=True)
        with suppress(OSError):
            workspace.rmdir()  # unless it holds what a stopped call had prepared
        raise FlowersError(str(error).replace(str(folder_of_photographs), str(source))) from None
    recipe = _recipe(found.photographs, choices, [skip_broken, *map(str, asdict(reading).values())])
    former = _former(out, recipe)
    if former is None:
        shutil.rmtree(workspace, ignore_errors=True)
        return f"`{out}` holds this already."
    prepared_in = workspace / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    prepared = chunks.prepare_all(found.photographs, prepared_in, image_size, fit, progress)
    table = _image_table(found.photographs, prepared)
    _require_readable(table, skip_broken)
    notes = [*found.notes, *_update_notes(table, former, out)]
    kept = {} if reading.split == "redo" else {key: split for key, split in former.items() if split}
    notes += _assign_splits(table, kept, val, test, seed)
    table = splitting.note_missing_splits(table)
    with atomic_write(out) as folder:
        images = chunks.open_jpegs(prepared)
        _write_splits(table, images, folder, image_size, np.random.default_rng([seed, 1]), progress)
        _write_listing(table, folder)
        _write_preview(table, images, folder / "preview.png")
        (folder / RECIPE).write_text(json.dumps(recipe), encoding="utf-8")
        (folder / "preprocessing.json").write_text(json.dumps({"fit": fit}), encoding="utf-8")
    shutil.rmtree(workspace)
    return "\n".join([_summary(table, out), *notes])


def _check_arguments(image_size: int, val: float, test: float, fit: str, seed: int) -> None:
    if not 32 <= image_size <= 4096:
        raise FlowersError(f"`image_size` (={image_size}) must be from 32 to 4096 px; the notebooks use 192")
    if not (val > 0 and test > 0 and val + test < 1):
        raise FlowersError(f"`val` (={val}) and `test` (={test}) must be above 0, and together below 1")
    if fit not in ("crop", "pad"):
        raise FlowersError(f"`fit` (={fit}) must be crop or pad")
    if seed < 0:
        raise FlowersError(f"`seed` (={seed}) must be 0 or more")


def _state(path: Path) -> str:
    """The size and the time of a file, by which a change is seen; empty where it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _recipe(photographs: Sequence[Photograph], choices: dict, reading: Sequence[object]) -> dict:
    """Return everything that decides the bytes of the dataset: the options, and the state of every file."""
    digest = hashlib.sha256(json.dumps(list(reading)).encode())
    for photograph in photographs:
        described = [photograph.id, photograph.label, photograph.split, _state(photograph.path)]
        digest.update(json.dumps(described).encode())
    versions = {"version": PIXELS_VERSION, "division": SPLITS_VERSION}
    return {**versions, "choices": choices, "files": len(photographs), "listing": digest.hexdigest()}


def _former(out: Path, recipe: dict) -> dict[tuple[str, str], str] | None:
    """Return the splits in the dataset that `out` holds, by id and content; empty if it holds nothing.

    The content is empty in datasets made before version 0.2. None if `out` holds the dataset of this recipe.

    Raises:
        FlowersError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    try:
        former = json.loads((out / RECIPE).read_text("utf-8"))
        made = former["choices"]
        if not isinstance(made, dict):  # before version 0.2
            made = dict(zip(recipe["choices"], made, strict=False))
        with open(out / LISTING, encoding="utf-8", newline="") as file:
            splits = {(row["id"], row.get("content", "")): row["split"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError):
        raise FlowersError(f"`{out}` holds something else; name another folder, or remove it first") from None
    if former == recipe:
        return None
    if differing := [name for name, value in recipe["choices"].items() if made.get(name) != value]:
        told = f"`{differing[0]}` (={made.get(differing[0])})"
        raise FlowersError(f"`{out}` holds something else: it was made with {told}; name another folder, or remove it")
    return splits


def _update_notes(table: pd.DataFrame, former: dict[tuple[str, str], str], out: Path) -> list[str]:
    """Return a sentence about what an update changes.

    Raises:
        FlowersError: most of the photographs in the dataset that `out` holds are others.
    """
    if not former:
        return []
    before = {name for name, _ in former}
    same = sum(key in former for key in _keys(table, former))
    added, gone = len(set(table["id"]) - before), len(before - set(table["id"]))
    changed = len(table) - added - same
    if 2 * same < len(former):
        raise FlowersError(f"`{out}` holds something else: other photographs; name another folder, or remove it first")
    changes = f"{added:,} files more, {gone:,} fewer, {changed:,} with other content"
    return [f"Updated: {changes}; all others keep their split."]


def _keys(table: pd.DataFrame, former: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Return what each file is known by: its id and, where the former dataset tells, its content."""
    has_content = any(content for _, content in former)
    contents = [content.hex() if has_content else "" for content in table["content"]]
    return list(zip(table["id"], contents, strict=True))


def _assign_splits(
    table: pd.DataFrame, former: dict[tuple[str, str], str], val: float, test: float, seed: int
) -> list[str]:
    """Add the column `split`; return sentences about what was given.

    Args:
        table: as `splitting.assign_splits` takes it; `given` is what the source says.
        former: the splits of an earlier dataset by id and content, which stay as they are.
        val: share of each class.
        test: likewise.
        seed: of the hash.
    """
    notes, shares = [], {"val": val, "test": test}
    given = set(table["given"]) - {""}
    if missing := [split for split in ("val", "test") if given and split not in given]:
        table["given"] = table["given"].replace("train", "")
        shares |= dict.fromkeys(given - {"train"}, 0.0)
        taken = " and ".join(f"{shares[split]:.0%} for {split}" for split in missing)
        notes.append(f"There is no {' and no '.join(missing)}: of train {taken} are taken.")
    from_former = pd.Series([former.get(key, "") for key in _keys(table, former)], table.index, dtype=object)
    table["given"] = table["given"].where(table["given"] != "", from_former)
    table["split"] = splitting.assign_splits(table, shares["val"], shares["test"], seed)
    if leaked := splitting.count_leaks(table):
        notes.append(
            f"Data leakage: {leaked:,} images of val or test are near-duplicates of images in another split, as the "
            "splits were given; --split redo divides anew."
        )
    return notes


def _image_table(photographs: Sequence[Photograph], prepared: Sequence[Path]) -> pd.DataFrame:
    """Return one row per file: `id`, `label`, `given`, `content`, `note`, `broken`, `group`."""
    table = chunks.load_table(photographs, prepared)
    broken = table["error"] != ""
    table = table.assign(broken=broken, note=(NOTE_BROKEN + table["error"]).where(broken, ""))
    table["given"] = [photograph.split for photograph in photographs]
    columns = ["id", "label", "given", "content", "note", "broken", "group"]
    return splitting.group_near_duplicates(table)[columns]


def _require_readable(table: pd.DataFrame, skip_broken: bool) -> None:
    broken = table[table["broken"]]
    if len(broken) and not skip_broken:
        raise FlowersError(_list_broken(broken, len(table)))
    num_classes = len(_classes(table))
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
                labels = (classes.index(label) if label else -1 for label in table["label"].iloc[part])
                records = zip(images.fetch(part).tolist(), table["id"].iloc[part], labels, strict=True)
                path = folder / shard_name(split, number, image_size, len(part))
                write_shard(path, records, labelled=split != "test", bar=bar)


def _classes(table: pd.DataFrame) -> list[str]:
    return names.in_order(label for label in table.loc[~table["broken"], "label"] if label)


def _write_listing(table: pd.DataFrame, folder: Path) -> None:
    """Write `classes.json`, the names in label order, and `files.csv`, one line per file."""
    classes = json.dumps(_classes(table), indent=1, ensure_ascii=False)
    (folder / "classes.json").write_text(classes + "\n", encoding="utf-8")
    columns = table[["id", "label", "split", "note"]].assign(content=[content.hex() for content in table["content"]])
    columns.to_csv(folder / LISTING, index=False, lineterminator="\n")


def _write_preview(table: pd.DataFrame, images: Records, path: Path) -> None:
    """Write a figure of a few training images with their labels, evenly spaced over the listing."""
    train = np.flatnonzero(table["split"] == "train")
    rows = np.unique(train[np.linspace(0, len(train) - 1, NUM_PREVIEW).astype(int)])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in images.fetch(rows)])
    figures.gallery(pixels, table["label"].iloc[rows].tolist()).savefig(path, dpi=100)


def _summary(table: pd.DataFrame, out: Path) -> str:
    counts, classes = Counter(table["split"]), _classes(table)
    sizes = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "val", "test"))
    lines = [f"`{out}`: {sizes} images, {len(classes)} classes; files.csv lists every file, preview.png shows some."]
    meaning = {
        NOTE_BROKEN: "cannot be read and are left out",
        splitting.NOTE_SIMILAR: "duplicates or near-duplicates, kept in the split of the image they are like",
        splitting.NOTE_TOO_FEW: f"of classes with fewer than {splitting.MIN_PER_CLASS} different photographs, in train",
        splitting.NOTE_MISSING_SPLIT: "of classes that val or test lacks",
    }
    for note, words in meaning.items():
        rows = table["note"].str.startswith(note)
        if rows.any():
            lines.append(f"{rows.sum():,} {words}: {table['id'][rows].iloc[0]} ...")
    contradicting = table[table["note"].str.contains(splitting.NOTE_CONTRADICTION, regex=False)]
    if len(contradicting):
        row = contradicting.iloc[0]
        told = f"{row['id']} is {row['note'].removesuffix(splitting.NOTE_CONTRADICTION)}"
        lines.append(f"{len(contradicting):,} show what another image shows that has another label: {told} ...")
    if all(name.isdecimal() for name in classes) and classes != [str(label) for label in range(len(classes))]:
        shown = ", ".join(f"{label} is `{name}`" for label, name in enumerate(classes[:MAX_LABELS_SHOWN]))
        more = " ..." if len(classes) > MAX_LABELS_SHOWN else ""
        lines.append(f"Labels, in a submission too, are places in classes.json: {shown}{more}")
    return "\n".join(lines)
