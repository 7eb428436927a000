"""Turn a folder of photographs, one folder a class, into a dataset in the competition's layout.

In two passes, so that memory does not grow with the data: first every photograph becomes a square JPEG, in chunks that
are kept beside `out` until all is done, so that a stopped call goes on; then the chunks are dealt out to the splits.
"""

import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from flowerlib import figures
from flowerlib.accelerator import tf
from flowerlib.config import FlowersError, atomic_write, set_aside_if_damaged, write_checksum
from flowerlib.evaluation import statistics
from flowerlib.parallel import parallel_map
from flowerlib.photos.photo import Fit, Prepared, prepare
from flowerlib.tfrecords.records import Records
from flowerlib.tfrecords.shards import shard_name, write_shard

VERSION = 1  # raise it when a photograph would become other pixels
DIVISION = 2  # raise it when photographs would be divided otherwise
CHUNK = 256  # photographs prepared before they are kept
IN_A_SHARD = 1000  # at most
ALIKE = 6  # bits of 64 in which the perceptual hashes of near-duplicates differ at most, as in 01_eda
FEWEST = 3  # images of a class that are needed to have one in each split


@dataclass(frozen=True)
class Photograph:
    """A file and its class; `id` is its path below the source."""

    id: str
    path: Path
    label: str


def find(source: Path) -> list[Photograph]:
    """List the photographs of a folder that has a folder for each class, or of a CSV file with columns path,label.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice.

    Raises:
        FlowersError: there is no such place; a folder cannot be read; a file lies outside the class folders; the CSV
            lacks a column, names a file twice or has an empty label; there are fewer than two classes.
    """
    photographs = _in_csv(source) if source.is_file() else _in_folders(source)
    if len(found := {photograph.label for photograph in photographs}) < 2:
        raise FlowersError(
            f"`{source}` has {len(found)} classes with files; it needs a folder for each of at least two classes, or "
            "to be a CSV file with the columns path,label"
        )
    return photographs


def _in_folders(source: Path) -> list[Photograph]:
    if not source.is_dir():
        raise FlowersError(
            f"`{source}` is not there; name a folder with a folder for each class, or a CSV of path,label"
        )
    photographs, seen = [], {os.path.realpath(source)}
    for place in sorted(source.iterdir()):
        if place.name.startswith("."):
            continue
        if not place.is_dir():
            raise FlowersError(
                f"`{place}` lies outside the folders of the classes; move it away, or into one if it is a photograph"
            )
        photographs += [Photograph(str(path.relative_to(source)), path, place.name) for path in _files(place, seen)]
    return photographs


def _files(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files below a folder, sorted, that are not hidden; `seen` keeps links from leading in circles."""

    def refuse(error: OSError) -> None:
        raise FlowersError(
            f"`{error.filename}` cannot be listed ({error.strerror}); give yourself the right to read it"
        )

    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(names) if not name.startswith("."))


def _in_csv(source: Path) -> list[Photograph]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FlowersError(
            f"`{source}` is not a CSV file in UTF-8 ({error}); it needs the columns path,label"
        ) from None
    photographs, first = [], {}
    for line, row in enumerate(rows, 2):
        path, label = (str(row.get(name) or "").strip() for name in ("path", "label"))
        if not path or not label:
            raise FlowersError(f"`{source}` line {line}: {row} needs a path and a label, under the header path,label")
        if path in first:
            raise FlowersError(f"`{source}` line {line}: {path} stands in line {first[path]} too; remove one of them")
        first[path] = line
        photographs.append(Photograph(path, source.parent / path, label))
    return photographs


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
    """Write the photographs of `source` as a dataset into `out`; or do nothing if `out` holds just that already.

    `out` gets `tfrecords-jpeg-<S>x<S>/{train,val,test}`, `classes.json`, `files.csv` (a line for every file found: its
    `id`, `label`, `split`, and a `note` where there is something to say; this is where the truth about test stands) and
    `preview.png`; for later calls, `folder.json` and `preprocessing.json`. It appears whole or not at all.

    Each class is divided in the same proportions, as nearly as it can be. Files that show the same, or nearly, stay in
    one split.

    Args:
        source: as in `find`.
        out: the folder to write.
        image_size: S, in pixels.
        val: share of each class for val.
        test: share of each class for test.
        fit: `crop` keeps the middle square of a photograph, `pad` all of it, with grey stripes.
        seed: of the division and the order.
        skip_broken: whether to leave out files that cannot be read, instead of stopping.
        progress: whether to show bars.

    Returns:
        What was done, in a few lines.

    Raises:
        FlowersError: as in `find`; an argument is out of range; `out` holds something else; files cannot be read.
    """
    _check(image_size, val, test, fit, seed)
    out = Path(out).resolve()
    found = find(source)
    recipe = _recipe(found, image_size, val, test, fit, seed, skip_broken)
    if (out / "folder.json").is_file() and (out / "folder.json").read_text() == recipe:
        return f"`{out}` holds this already."
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowersError(f"`{out}` holds something else; name another folder, or remove it first")
    kept = out.with_name(f".{out.name}.preparing") / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    prepared = _prepare(found, kept, image_size, fit, progress)
    table = _table(found, prepared)
    _refuse_broken(table, skip_broken)
    table["split"] = _divide(table, val, test, np.random.default_rng([seed, 0]))
    _note_small_classes(table)
    with atomic_write(out) as folder:
        _write(table, prepared, folder, image_size, np.random.default_rng([seed, 1]), progress)
        (folder / "folder.json").write_text(recipe)
        (folder / "preprocessing.json").write_text(json.dumps({"fit": fit}))
    shutil.rmtree(kept.parent)
    return _summary(table, out)


def _check(image_size: int, val: float, test: float, fit: str, seed: int) -> None:
    if not 32 <= image_size <= 4096:
        raise FlowersError(f"`image_size` (={image_size}) must be from 32 to 4096 px; the notebooks want 192")
    if not (val > 0 and test > 0 and val + test < 1):
        raise FlowersError(f"`val` (={val}) and `test` (={test}) must be above 0, and together below 1")
    if fit not in ("crop", "pad"):
        raise FlowersError(f"`fit` (={fit}) must be crop or pad")
    if seed < 0:
        raise FlowersError(f"`seed` (={seed}) must be 0 or more")


def _recipe(found: Sequence[Photograph], *choices: object) -> str:
    """What decides the bytes of the dataset, as JSON: the choices, and every file's id, class, length and time."""
    listing = hashlib.sha256()
    for photograph in found:
        try:
            about = photograph.path.stat()
            known = [about.st_size, about.st_mtime_ns]
        except OSError:
            known = []
        listing.update(json.dumps([photograph.id, photograph.label, *known]).encode())
    rules = {"version": VERSION, "division": DIVISION}
    return json.dumps({**rules, "choices": choices, "files": len(found), "listing": listing.hexdigest()})


def _prepare(found: list[Photograph], kept: Path, image_size: int, fit: Fit, progress: bool) -> list[Path]:
    """Make the chunks that an earlier call did not; return their files without ending.

    `.tfrec` holds a JPEG a photograph, empty where it cannot be read; `.npz` all else.
    """
    chunks = {kept / f"{number:05d}": found[at : at + CHUNK] for number, at in enumerate(range(0, len(found), CHUNK))}
    for file in (file for chunk in chunks for file in _files_of(chunk)):
        set_aside_if_damaged(file)
    missing = {chunk: part for chunk, part in chunks.items() if not all(map(Path.exists, _files_of(chunk)))}
    jobs = [photograph.path for part in missing.values() for photograph in part]
    bar = tqdm(desc="preparing", total=len(found), initial=len(found) - len(jobs), unit="img", disable=not progress)
    with bar, parallel_map(partial(prepare, image_size=image_size, fit=fit), jobs) as done:
        for chunk, part in missing.items():
            prepared = []
            for _ in part:
                prepared.append(next(done))
                bar.update()
            _keep(chunk, prepared)
    return list(chunks)


def _files_of(chunk: Path) -> tuple[Path, Path]:
    return chunk.with_suffix(".tfrec"), chunk.with_suffix(".npz")


def _keep(chunk: Path, prepared: list[Prepared]) -> None:
    jpegs, rest = _files_of(chunk)
    with atomic_write(jpegs) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for one in prepared:
                writer.write(one.jpeg)
        write_checksum(jpegs, temporary)
    with atomic_write(rest) as temporary:
        np.savez(
            temporary,
            digests=np.stack([np.frombuffer(one.digest, np.uint8) for one in prepared]),
            thumbnails=np.stack([one.thumbnail for one in prepared]),
            errors=np.array([one.error for one in prepared]),
        )
        write_checksum(rest, temporary)


def _table(found: list[Photograph], chunks: list[Path]) -> pd.DataFrame:
    """One row a file: `id`, `label`, `note`, `broken`, and `group`, the same for files that show the same."""
    parts = []
    for chunk in chunks:
        with np.load(chunk.with_suffix(".npz")) as kept:
            hashes, mirrored = statistics.perceptual_hashes(kept["thumbnails"].astype(np.float32))
            digests = [digest.tobytes() for digest in kept["digests"]]
            columns = {"note": kept["errors"], "digest": digests, "hash": hashes, "mirrored": mirrored}
            parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "id", [photograph.id for photograph in found])
    table.insert(1, "label", [photograph.label for photograph in found])
    table["broken"] = table["note"] != ""
    table["note"] = table["note"].where(~table["broken"], "left out: " + table["note"])
    table["group"] = _groups(table) if not table["broken"].all() else range(len(table))
    return table.drop(columns=["digest", "hash", "mirrored"])


def _groups(table: pd.DataFrame) -> np.ndarray:
    """Return for each row the position of the first that shows the same; note what is alike."""
    sound = table[~table["broken"]]
    codes = pd.factorize(sound["label"])[0]
    pairs = statistics.near_duplicates(sound[["hash", "mirrored"]].assign(label=codes, split=""), ALIKE)
    same = sound.groupby("digest").cumcount() > 0
    first = sound.reset_index().groupby("digest")["index"].transform("first").to_numpy()
    exact = list(zip(first[same], sound.index[same], strict=True))
    group = np.arange(len(table))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = row = group[group[row]]
        return row

    for left, right in [*exact, *zip(pairs["left"], pairs["right"], strict=True)]:
        one, other = sorted((root(left), root(right)))
        group[other] = one
    roots = np.array([root(row) for row in range(len(table))])
    for row in np.flatnonzero(roots != np.arange(len(table))):
        table.loc[row, "note"] = f"like {table.loc[roots[row], 'id']}" + (
            "" if table.loc[row, "label"] == table.loc[roots[row], "label"] else ", which has another label"
        )
    return roots


def _refuse_broken(table: pd.DataFrame, skip_broken: bool) -> None:
    broken = table[table["broken"]]
    if len(broken) and not skip_broken:
        lines = [f"  `{row.id}` {row.note.removeprefix('left out: ')}" for row in broken.head(20).itertuples()]
        more = [f"  and {len(broken) - 20} more"] if len(broken) > 20 else []
        raise FlowersError(
            "\n".join([f"{len(broken)} of {len(table)} files cannot be used:", *lines, *more])
            + "\nmend or remove them, or leave them out with --skip-broken"
        )
    if (left := table.loc[~table["broken"], "label"].nunique()) < 2:
        raise FlowersError(f"{left} classes have a file that can be read; there must be two at least")


def _divide(table: pd.DataFrame, val: float, test: float, rng: np.random.Generator) -> pd.Series:
    """Return each row's split, empty for what is broken: class by class, whole groups."""
    splits = pd.Series("", table.index)
    sound = table[~table["broken"]]
    label_of_group = _label_of_group(table)
    sizes = sound["group"].value_counts()
    for label in sorted(label_of_group.unique()):
        groups = rng.permutation(label_of_group.index[label_of_group == label].to_numpy())
        groups = groups[np.argsort(-sizes[groups].to_numpy(), kind="stable")]
        chosen = _splits_of(dict(zip(groups.tolist(), sizes[groups].tolist(), strict=True)), val, test, rng)
        splits.update(sound["group"].map(chosen).dropna())
    if missing := [split for split in ("val", "test") if split not in set(splits)]:
        raise FlowersError(
            f"nothing is left for {missing[0]}: no class has {FEWEST} photographs that differ, or too many look "
            "alike; add some"
        )
    return splits


def _label_of_group(table: pd.DataFrame) -> pd.Series:
    """The class in which a group counts: that of its first file."""
    return table[~table["broken"]].groupby("group")["label"].first()


def _splits_of(sizes: dict[int, int], val: float, test: float, rng: np.random.Generator) -> dict[int, str]:
    """Return each group's split; those of a class with too few go to train.

    The largest is train's; each of the others goes to the split that lacks most images of its share.

    Args:
        sizes: of the groups of a class, the largest first.
        val: share of the images.
        test: likewise.
        rng: decides where two splits lack as many.
    """
    if len(sizes) < FEWEST:
        return dict.fromkeys(sizes, "train")
    chosen: dict[int, str] = {}
    count = sum(sizes.values())
    wanted = {"train": (1 - val - test) * count, "val": val * count, "test": test * count}
    lacking = {split: wanted[split] for split in rng.permutation(list(wanted)).tolist()}
    for group, size in sizes.items():
        chosen[group] = max(lacking, key=lambda split: round(lacking[split], 6)) if chosen else "train"
        lacking[chosen[group]] -= size
    for split in [split for split in lacking if split not in chosen.values()]:
        _give_one(split, 2 * wanted[split], sizes, chosen)
    return chosen


def _give_one(split: str, most: float, sizes: dict[int, int], chosen: dict[int, str]) -> None:
    """Move the smallest group that another split can spare to one that has none, if it has at most so many images."""
    groups = Counter(chosen.values())
    spared = min((group for group in sizes if groups[chosen[group]] > 1), key=sizes.get)
    if sizes[spared] <= max(1, most):
        chosen[spared] = split


def _note_small_classes(table: pd.DataFrame) -> None:
    groups = _label_of_group(table).value_counts()
    for label, rows in table[~table["broken"]].groupby("label"):
        absent = [split for split in ("val", "test") if split not in set(rows["split"])]
        note = f"none of its class in {' or '.join(absent)}: what looks alike stays together"
        if len(absent) == 2 and groups.get(label, 0) < FEWEST:
            note = f"its class has fewer than {FEWEST} that differ: train only"
        table.loc[rows.index[(rows["note"] == "") & bool(absent)], "note"] = note


def _write(
    table: pd.DataFrame, chunks: list[Path], folder: Path, image_size: int, rng: np.random.Generator, progress: bool
) -> None:
    names = sorted(table.loc[~table["broken"], "label"].unique())
    jpegs = Records([str(chunk.with_suffix(".tfrec")) for chunk in chunks], folder.name)
    with tqdm(desc="writing", total=int((~table["broken"]).sum()), unit="img", disable=not progress) as bar:
        for split in ("train", "val", "test"):
            rows = rng.permutation(np.flatnonzero(table["split"] == split))
            for number, part in enumerate(np.array_split(rows, math.ceil(len(rows) / IN_A_SHARD))):
                labels = (names.index(label) for label in table["label"].iloc[part])
                records = zip(jpegs.fetch(part).tolist(), table["id"].iloc[part], labels, strict=True)
                path = folder / shard_name(split, number, image_size, len(part))
                write_shard(path, records, labelled=split != "test", bar=bar)
    (folder / "classes.json").write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    listing = table[["id", "label", "split", "note"]]
    listing.to_csv(folder / "files.csv", index=False, lineterminator="\n", errors="backslashreplace")
    train = np.flatnonzero(table["split"] == "train")
    rows = np.unique(train[np.linspace(0, len(train) - 1, 12).astype(int)])
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs.fetch(rows)])
    figures.gallery(images, table["label"].iloc[rows].tolist()).savefig(folder / "preview.png", dpi=100)


def _summary(table: pd.DataFrame, out: Path) -> str:
    counts = Counter(table["split"])
    lines = [
        f"`{out}`: " + ", ".join(f"{counts[split]:,} {split}" for split in ("train", "val", "test"))
        + f" images, {table['label'].nunique()} classes; every file stands in files.csv, preview.png shows some."
    ]  # fmt: skip
    notes = {
        "left out, as they cannot be read": table["note"].str.startswith("left out"),
        "like another one, and kept in its split": table["note"].str.startswith("like"),
        f"of classes with fewer than {FEWEST} that differ, in train only": table["note"].str.startswith("its class"),
        "of classes that val or test lacks, as what looks alike stays together": table["note"].str.startswith("none"),
    }
    lines += [f"{rows.sum():,} {what}: {table['id'][rows].iloc[0]} ..." for what, rows in notes.items() if rows.any()]
    return "\n".join(lines)
