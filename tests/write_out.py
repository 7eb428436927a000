"""Write a dataset's labelled images out as JPEGs, a folder for each class: what `flowerlib folder` begins with.

Example: `python tests/write_out.py --data my-flowers photographs`. The JPEGs are the records' own bytes.
"""

import argparse
from pathlib import Path

from flowerlib import data
from flowerlib.accelerator import tf


def write(flowers: data.Flowers, out: Path) -> int:
    """Write train and val, named by split and position; return how many there are."""
    count = 0
    for split in ("train", "val"):
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
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(write(data.find(path=arguments.data), arguments.out), "images")
