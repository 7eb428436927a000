"""A tiny dataset in the competition's layout, which a test alters before it is written, and a clean environment."""

import copy
import json
import os

import numpy as np
import pytest

CLASSES = ("daisy", "iris", "rose", "lotus")
SIZE = 24
SHARDS = {"train": (8, 8, 7), "val": (5, 4), "test": (4, 3)}  # records of each file; no count divides another
TINTS = np.array([(230, 220, 90), (90, 80, 220), (220, 60, 90), (240, 200, 230)])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No test depends on, or writes to, what the machine has."""
    for name in [name for name in os.environ if name.startswith("FLOWERS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def _records():
    from flowerlib.accelerator import tf

    rng = np.random.default_rng(0)
    records, number = {}, 0
    for split, lengths in SHARDS.items():
        records[split] = [[] for _ in lengths]
        for shard, length in zip(records[split], lengths, strict=True):
            for _ in range(length):
                label = number % len(CLASSES)
                coarse = rng.normal(TINTS[label], 40, (4, 4, 3))
                smooth = np.clip(tf.image.resize(coarse, (SIZE, SIZE), "bicubic"), 0, 255).astype(np.uint8)
                record = {"image": tf.io.encode_jpeg(smooth).numpy(), "id": f"{number:09x}".encode()}
                shard.append(record if split == "test" else record | {"class": label})
                number += 1
    return records


@pytest.fixture
def records(_records):
    """`records[split][shard][index]` is a dict of the record's features; the test may change any of it."""
    return copy.deepcopy(_records)


@pytest.fixture(scope="session")
def write_flowers():
    """Return `write(root, records)`: a list of bytes is one feature, int one label; a shard's name tells its length."""
    from flowerlib.accelerator import tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def serialized(record):
        features = {name: feature(value) for name, value in record.items()}
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    def write(root, records, size=SIZE, classes=CLASSES):
        for split, shards in records.items():
            folder = f"{root}/tfrecords-jpeg-{size}x{size}/{split}"
            tf.io.gfile.makedirs(folder)
            for number, shard in enumerate(shards):
                with tf.io.TFRecordWriter(f"{folder}/{number:02}-{size}x{size}-{len(shard)}.tfrec") as writer:
                    for record in shard:
                        writer.write(serialized(record))
        if classes:
            with tf.io.gfile.GFile(f"{root}/classes.json", "w") as file:
                file.write(json.dumps(classes))
        return str(root)

    return write


@pytest.fixture
def in_bfloat16():
    """Have networks that the test builds compute as on a TPU."""
    from flowerlib.accelerator import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def flowers(_records, write_flowers, tmp_path_factory):
    """Return the tiny dataset as it is, found; for tests that only read it."""
    from flowerlib import data

    return data.find(path=write_flowers(tmp_path_factory.mktemp("flowers"), _records))


@pytest.fixture(scope="session")
def trained(flowers, tmp_path_factory):
    """Return the folder of a run on the tiny dataset, which kept its training pictures."""
    import tiny

    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        tiny.write_run(flowers, keep_pictures=True)
    return place / "runs/tiny"


@pytest.fixture(scope="session")
def photographs_of_val(_records, tmp_path_factory):
    """Return a folder with the JPEGs of val, named by their ids."""
    place = tmp_path_factory.mktemp("photographs")
    for shard in _records["val"]:
        for record in shard:
            (place / f"{record['id'].decode()}.jpg").write_bytes(record["image"])
    return place
