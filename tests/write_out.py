"""Write a dataset's labelled images out as JPEGs, a folder for each class: what `flowerlib folder` begins with.

Example: `python tests/write_out.py --data my-flowers --split train photographs`. The JPEGs are the records' own bytes.
"""

import argparse
from pathlib import Path

from flowerlib import data
from flowerlib.accelerator import tf


def write(flowers: data.Flowers, out: Path, splits: tuple[str, ...] = ("train", "val")) -> int:
    """Write the splits, files named by split and position; return how many there are."""
    count = 0
    for split in splits:
        for position, record in enumerate(tf.data.TFRecordDataset(list(flowers.shards[split])).as_numpy_iterator()):
            features = tf.train.Example.FromString(record).features.feature
            folder = out / flowers.classes[features["class"].int64_list.value[0]].replace("/", " ")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}-{position:06d}.jpg").write_bytes(features["image"].bytes_list.value[0])
            count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--split", choices=("train", "val"), action="append", help="one or both; both unless given")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    splits = tuple(arguments.split or ("train", "val"))
    print(write(data.find(path=arguments.data), arguments.out, splits), "images")
