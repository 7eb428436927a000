"""Write a dataset's files: TFRecords of JPEGs with their ids and labels, named as the competition names them."""

from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from flowerlib.config import suppress_native_stderr


def shard_name(split: str, number: int, image_size: int, count: int) -> str:
    """Return a file's path below the dataset's folder: `tfrecords-jpeg-<S>x<S>/<split>/<NN>-<S>x<S>-<COUNT>.tfrec`."""
    side = f"{image_size}x{image_size}"
    return f"tfrecords-jpeg-{side}/{split}/{number:02d}-{side}-{count}.tfrec"


def write_shard(path: Path, records: Iterable[tuple[bytes, str, int]], *, labelled: bool, bar: tqdm) -> None:
    """Write images (JPEG) with their ids and, where `labelled`, their labels; move the bar by one each."""
    with suppress_native_stderr():  # not through accelerator, which would take hold of a TPU that the notebooks need
        import tensorflow as tf

    def feature(value: bytes | int) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, name, label in records:
            features = {"image": feature(image), "id": feature(name.encode())}
            if labelled:
                features["class"] = feature(int(label))
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))
            bar.update()
