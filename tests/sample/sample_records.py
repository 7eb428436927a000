"""Read a sample back, as a notebook would and not as it was written."""

import hashlib
import io

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")
SMALL = 60  # pictures: enough for every split to have every class, drawn in two seconds


def shards_of(root, split):
    """Return the files of a split, in order."""
    return sorted(root.glob(f"tfrecords-jpeg-*/{split}/*"))


def read_records(paths):
    """Read records as a notebook would, not as they were written."""
    from flowerlib.accelerator import tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "id": tf.io.FixedLenFeature([], tf.string),
        "class": tf.io.FixedLenFeature([], tf.int64, -1),
    }
    records = tf.data.TFRecordDataset([str(path) for path in paths])
    return list(records.map(lambda record: tf.io.parse_single_example(record, features)).as_numpy_iterator())


def labels_of(root, split):
    """Return the labels of a split."""
    return [int(record["class"]) for record in read_records(shards_of(root, split))]


def hashes(root):
    """Return the SHA-256 of every file by its path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def decode_split(root, split):
    """Return the images of a split `(N, S, S, 3)` and their labels."""
    records = read_records(shards_of(root, split))
    images = np.stack([np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records])
    return images, np.array([record["class"] for record in records])
