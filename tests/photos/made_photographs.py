"""Photographs that the tests make, and what a conversion of them left."""

import csv
from collections import Counter

import numpy as np
from PIL import Image

COUNTS = Counter({"aster": 20, "Ölbaum": 10, "daisy": 7})
SIZE = 48


def picture(seed):
    """Return a random image of large, soft spots; no two seeds give near-duplicates."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(spots).resize((72, 60), Image.Resampling.BICUBIC)


def read_listing(out):
    """Return the rows of `files.csv` by id."""
    with open(out / "files.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def read_all_files(out):
    """Return the bytes of every file below a folder by its path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def touch(place, *names):
    """Make empty files, and folders where a name ends in a slash."""
    for name in names:
        if name.endswith("/"):
            (place / name).mkdir(parents=True, exist_ok=True)
        else:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
