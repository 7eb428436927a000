"""Check a dataset record by record, before an hour of training finds what is damaged."""

from concurrent.futures import ThreadPoolExecutor

from google.protobuf.message import DecodeError
from tqdm import tqdm

from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.data.dataset import SPLITS, Flowers, num_records
from flowerlib.data.decoding import decode_jpeg
from flowerlib.data.storage import readable_errors


def check(flowers: Flowers, progress: bool = True) -> None:
    """Read and decode every record once, so that a damaged file is named now and not after an hour of training.

    Raises:
        FlowersError: names the file, the record (from 0) and what is wrong: a truncated or altered file, a count that
            differs from the file's name, a missing feature, an image that is no whole JPEG of the right size, a label
            outside the classes, an id that occurs twice.
    """
    jobs = [(split, path) for split in SPLITS for path in flowers.shards[split]]
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda job: _check_shard(flowers, *job), jobs)
        ids = list(tqdm(results, "checking files", len(jobs), disable=not progress, leave=False))
    first: dict[bytes, str] = {}
    for (_, path), shard_ids in zip(jobs, ids, strict=True):
        for index, record_id in enumerate(shard_ids):
            place = f"`{path}` record {index}"
            if other := first.get(record_id):
                told = record_id.decode("utf-8", "backslashreplace")
                raise FlowersError(f"{place}: id {told!r} is also that of {other}; ids must be unique")
            if record_id:
                first[record_id] = place


def _check_shard(flowers: Flowers, split: str, path: str) -> list[bytes]:
    """Return the ids of a shard's records, empty where a record has none."""
    with readable_errors(path):
        return _check_records(flowers, split, path)


def _check_records(flowers: Flowers, split: str, path: str) -> list[bytes]:
    ids: list[bytes] = []
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            ids.append(_check_record(record, flowers, split))
    except tf.errors.DataLossError:
        raise FlowersError(
            f"`{path}` record {len(ids)}: truncated, or altered since it was written (its checksum does not fit); "
            "fetch the file again"
        ) from None
    except FlowersError as error:
        raise FlowersError(f"`{path}` record {len(ids)}: {error}; fetch or make the file again") from None
    named = num_records(path)
    if len(ids) != named:
        raise FlowersError(f"`{path}` holds {len(ids)} records but its name says {named}; fetch the file again")
    return ids


def _check_record(record: bytes, flowers: Flowers, split: str) -> bytes:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise FlowersError("is not a tf.train.Example") from None
    needed = ("image", "id") if split == "test" else ("image", "class")
    if missing := [name for name in needed if name not in features]:
        raise FlowersError(f"has no feature {missing[0]!r}, only {sorted(features)}")
    _check_image(features["image"].bytes_list.value, flowers.image_size)
    if split != "test":
        labels = list(features["class"].int64_list.value)
        if len(labels) != 1 or not 0 <= labels[0] < len(flowers.classes):
            raise FlowersError(f"label {labels} must be one of 0 to {len(flowers.classes) - 1}")
    ids = list(features["id"].bytes_list.value) if "id" in features else []
    if split == "test" and (len(ids) != 1 or not ids[0]):
        raise FlowersError(f"`id` {ids} must be one string that is not empty")
    return ids[0] if ids else b""


def _check_image(values: list[bytes], image_size: int) -> None:
    if len(values) != 1 or not values[0].startswith(b"\xff\xd8\xff"):
        start = values[0][:4].hex(" ") if values else "nothing"
        raise FlowersError(f"`image` is not a JPEG (it begins with {start}, a JPEG with ff d8 ff)")
    try:
        shape = tuple(decode_jpeg(values[0]).shape)
    except tf.errors.InvalidArgumentError:
        raise FlowersError(f"`image` is a JPEG that cannot be decoded ({len(values[0])} bytes)") from None
    if shape != (image_size, image_size, 3):
        raise FlowersError(f"`image` has shape {shape}, not {(image_size, image_size, 3)}")
