"""Finding, checking and batching the dataset, against files whose every byte and colour the test has chosen."""

import hashlib
import io
import os
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowerlib import augmentation, data
from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError, competition_dir, sample_dir
from flowerlib.data.classes import CLASSES

SIZE = 24
MOVED = replace(augmentation.Augmentation(), contrast=0.0, brightness=0.0)  # leaves an image of one colour as it is


def jpeg(pixels, mode="RGB", format="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(buffer, format, quality=95)
    return buffer.getvalue()


def plain(size, colour=(90, 120, 60)):
    return np.full((size, size, 3), colour)


def numbered(number, size=SIZE):
    """A picture that says which it is: 16 steps of red and 16 of green survive JPEG."""
    return jpeg(plain(size, (16 * (number % 16) + 8, 16 * (number // 16) + 8, 128)))


def numbers(images):
    """Which pictures these are, from the colour of each pixel."""
    red, green = np.moveaxis(np.asarray(images), -1, 0)[:2] // 16
    return (red + 16 * green).astype(int)


def numbered_flowers(write_flowers, root, lengths=(8, 8, 7)):
    """Every image is its own class, so colour, label and id say the same; the ids count in hexadecimal."""
    records, number = {}, 0
    for split in data.SPLITS:
        records[split] = [[] for _ in lengths]
        for shard, length in zip(records[split], lengths, strict=True):
            for _ in range(length):
                shard.append({"image": numbered(number), "class": number, "id": f"{number:09x}".encode()})
                number += 1
    return data.find(path=write_flowers(root, records, classes=[f"flower {index}" for index in range(number)]))


@pytest.fixture(scope="module")
def numbered_23(write_flowers, tmp_path_factory):
    return numbered_flowers(write_flowers, tmp_path_factory.mktemp("numbered"))


def refusal(action, *arguments, **options):
    """Return the message of the FlowersError, which must be one line."""
    with pytest.raises(FlowersError) as error:
        action(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def shard_path(root, split, number):
    return sorted(Path(root, f"tfrecords-jpeg-{SIZE}x{SIZE}", split).iterdir())[number]


# Where the dataset is


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The folders in the order in which they are tried; none exists yet."""
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path / "kaggle"))
    mounts = [f"{tmp_path}/kaggle/input/{place}tpu-getting-started" for place in ("competitions/", "")]
    return {
        "path": str(tmp_path / "mine"),
        "environment": str(tmp_path / "env"),
        "unnamed": (*mounts, str(competition_dir()), str(sample_dir())),
    }


def test_path_then_environment_then_kaggle_then_fetched_then_sample(places, records, write_flowers, monkeypatch):
    for root in (places["path"], places["environment"], *places["unnamed"]):
        write_flowers(root, records)
    monkeypatch.setenv("FLOWERS_DATA", places["environment"])
    assert data.find(path=places["path"]).root == places["path"]
    assert data.find().root == places["environment"]
    monkeypatch.delenv("FLOWERS_DATA")
    for place in places["unnamed"]:
        if place == str(competition_dir()):
            monkeypatch.delenv("FLOWERS_KAGGLE")
        assert data.find().root == place
        Path(place).rename(f"{place} is gone")
    assert "no flowers found" in refusal(data.find)


def test_where_kaggles_place_is_named_others_are_no_substitute(places, records, write_flowers):
    *mounts, fetched, sample = places["unnamed"]
    write_flowers(fetched, records)
    write_flowers(sample, records)
    message = refusal(data.find)
    assert [place in message for place in (*mounts, fetched, sample)] == [True, True, False, False]
    assert "or unset FLOWERS_KAGGLE" in message


@pytest.mark.parametrize("named_by", ["path", "environment"])
def test_the_home_folder_may_be_written_as_a_tilde(records, write_flowers, tmp_path, monkeypatch, named_by):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = write_flowers(tmp_path / "flowers", records)
    monkeypatch.setenv("FLOWERS_DATA", "~/flowers")
    assert data.find(path="~/flowers" if named_by == "path" else None).root == root


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("named_by", ["path", "environment"])
def test_a_named_place_without_flowers_is_an_error_although_others_have_them(
    places, records, write_flowers, monkeypatch, named_by, empty
):
    for root in places["unnamed"]:
        write_flowers(root, records)
    if empty:
        Path(places[named_by]).mkdir()
    if named_by == "environment":
        monkeypatch.setenv("FLOWERS_DATA", places["environment"])
    message = refusal(data.find, path=places["path"] if named_by == "path" else None)
    assert f"in `{places[named_by]}`;" in message.replace(" (not there)", "")  # this place and no other
    assert "--data or FLOWERS_DATA" in message


def test_a_place_that_cannot_be_read_is_not_called_missing(tmp_path):
    (tmp_path / "file").touch()
    message = refusal(data.find, path=f"{tmp_path}/file/flowers")  # a file is no folder
    assert f"in `{tmp_path}/file/flowers` (" in message
    assert "Not a directory" in message


def test_the_error_lists_every_place_that_was_looked_at(monkeypatch):
    monkeypatch.delenv("FLOWERS_KAGGLE", raising=False)
    message = refusal(data.find)
    mounts = ("/kaggle/input/competitions/tpu-getting-started", "/kaggle/input/tpu-getting-started")
    for place in (*mounts, competition_dir(), sample_dir()):
        assert f"`{place}`" in message
    assert "--data or FLOWERS_DATA" in message
    assert "`flowerlib data`" in message
    assert "flowerlib run --sample" in message


def test_each_of_the_competitions_sizes_is_found_and_read(write_flowers, tmp_path):
    for size in (192, 224, 331, 512):
        records = {split: [[{"image": jpeg(plain(size)), "class": 3, "id": split.encode()}]] for split in data.SPLITS}
        write_flowers(tmp_path, records, size, classes=None)
    for size in (192, 224, 331, 512):
        flowers = data.find(size, str(tmp_path))
        data.check(flowers, progress=False)
        assert next(iter(data.eval_batches(flowers, "val", 2)))[0].shape == (1, size, size, 3)
    message = refusal(data.find, 300, str(tmp_path))
    assert "`image_size` (=300) must be one of (192, 224, 331, 512)" in message
    assert str(tmp_path) in message


def test_the_smallest_size_is_taken_unless_one_is_named(records, write_flowers, tmp_path):
    for size in (100, SIZE):  # as words, 100 comes before 24
        write_flowers(tmp_path, records, size)
    assert data.find(path=str(tmp_path)).image_size == SIZE


@pytest.mark.parametrize("wanted", [None, *range(1, 130), 1000])
def test_the_nearest_size_is_the_next_larger_one_else_the_largest(three_sizes, wanted):
    larger = [size for size in (SIZE, 48, 100) if size >= (wanted or 0)]
    assert data.find(wanted, three_sizes, nearest=True).image_size == min(larger, default=100)


def test_without_nearest_another_size_is_an_error(three_sizes):
    assert data.find(48, three_sizes).image_size == 48
    assert "`image_size` (=47) must be one of (24, 48, 100)" in refusal(data.find, 47, three_sizes)


@pytest.fixture(scope="module")
def three_sizes(_records, write_flowers, tmp_path_factory):
    root = tmp_path_factory.mktemp("sizes")
    for size in (SIZE, 48, 100):
        write_flowers(root, _records, size)
    return str(root)


def test_a_dataset_in_tensorflows_memory_file_system_works_like_a_folder(records, write_flowers, flowers):
    root = write_flowers("ram://garden/flowers", records)
    found = data.find(path=root)
    assert found.root == root
    assert found.classes == flowers.classes
    assert found.fingerprint == flowers.fingerprint
    data.check(found, progress=False)
    for split in data.SPLITS:
        assert found.count(split) == flowers.count(split)
        batches = [next(iter(data.eval_batches(each, split, 23))) for each in (found, flowers)]
        for one, other in zip(*batches, strict=True):
            np.testing.assert_array_equal(one, other)
    assert next(iter(data.train_batches(found, 8)))[0].shape == (8, SIZE, SIZE, 3)


def test_a_slash_at_the_end_of_the_place_changes_nothing(flowers):
    assert data.find(path=flowers.root + "/").shards == flowers.shards


def test_classes_are_the_datasets_own_else_the_104(records, write_flowers, tmp_path):
    own = data.find(path=write_flowers(tmp_path / "own", records, classes=("daisy ", "iris", "rose", "lotus", "fern")))
    assert own.classes == ("daisy", "iris", "rose", "lotus", "fern")
    assert data.find(path=write_flowers(tmp_path / "without", records, classes=None)).classes == CLASSES


def test_a_classes_file_that_is_no_list_of_names_is_refused(flowers_folder):
    (flowers_folder / "classes.json").write_text('{"rose": 0}')
    assert f"`{flowers_folder}/classes.json`" in refusal(data.find, path=str(flowers_folder))


def test_a_classes_file_that_is_no_utf8_is_refused(flowers_folder):
    (flowers_folder / "classes.json").write_bytes('["Röschen", "tulip"]'.encode("latin-1"))
    assert f"`{flowers_folder}/classes.json`" in refusal(data.find, path=str(flowers_folder))


@pytest.fixture
def flowers_folder(records, write_flowers, tmp_path):
    return Path(write_flowers(tmp_path / "flowers", records))


def test_the_fingerprint_does_not_depend_on_where_the_files_are(flowers_folder, flowers):
    moved = data.find(path=str(flowers_folder))
    assert moved.root != flowers.root
    assert moved.fingerprint == flowers.fingerprint
    assert re.fullmatch("[0-9a-f]{12}", moved.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r["val"][1].pop(), id="a record less"),
        pytest.param(lambda r: r["test"].pop(), id="a file less"),
        pytest.param(lambda r: r["train"][2][3].update(image=jpeg(plain(SIZE))), id="another image"),
        pytest.param(lambda r: r["train"][0][0].update({"class": 3}), id="another label in as many bytes"),
        pytest.param(lambda r: r["train"][0].reverse(), id="another order"),
    ],
)
def test_the_fingerprint_changes_with_the_files(records, write_flowers, tmp_path, flowers, change):
    change(records)
    assert data.find(path=write_flowers(tmp_path, records)).fingerprint != flowers.fingerprint


def test_the_fingerprint_is_what_its_description_says(flowers_folder):
    """Features that are kept go by it: however it is computed, it must stay the same."""
    parts = [(split, path) for split in data.SPLITS for path in sorted(flowers_folder.glob(f"*/{split}/*"))]
    lines = [f"{split}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for split, path in parts]
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    assert data.find(path=str(flowers_folder)).fingerprint == expected


def test_a_shard_is_not_read_into_memory_to_be_hashed(flowers_folder):
    for split in data.SPLITS:
        os.truncate(shard_path(flowers_folder, split, 0), 100_000_000)
        with shard_path(flowers_folder, split, 0).open("ab") as file:
            file.write(split.encode())
    tracemalloc.start()
    try:
        data.find(path=str(flowers_folder))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_what_has_not_changed_is_not_hashed_again_and_what_has_is(flowers_folder):
    """Seen by what only reading could tell: other content of the same length, the time of its change set back."""
    path = shard_path(flowers_folder, "train", 0)
    before, stamp = data.find(path=str(flowers_folder)).fingerprint, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))
    assert data.find(path=str(flowers_folder)).fingerprint == before
    os.utime(path, ns=(stamp, stamp + 1))
    assert data.find(path=str(flowers_folder)).fingerprint != before


def test_a_file_system_that_keeps_no_times_is_read_each_time(records, write_flowers):
    root = write_flowers("ram://changing/flowers", records)
    before = data.find(path=root).fingerprint
    tf.io.gfile.rmtree(root)
    records["train"][0][0]["class"] ^= 1
    assert data.find(path=write_flowers("ram://changing/flowers", records)).fingerprint != before


@pytest.mark.parametrize("split", data.SPLITS)
@pytest.mark.parametrize("what", ["is missing", "has other files"])
def test_a_split_without_tfrec_files_is_refused(flowers_folder, split, what):
    folder = shard_path(flowers_folder, split, 0).parent
    folder.rename(folder.with_name("away"))
    if what == "has other files":
        folder.mkdir()
        (folder / "README.md").write_text("flowers")
    message = refusal(data.find, path=str(flowers_folder))
    assert f"`{folder}` has no .tfrec files" in message
    assert "each of ('train', 'val', 'test') needs at least one" in message


@pytest.mark.parametrize("name", ["flowers.tfrec", "00-24x24.tfrec", "00-24x32-8.tfrec", "00-24x24-8 (1).tfrec"])
def test_a_file_name_that_does_not_tell_the_count_is_refused(flowers_folder, name):
    path = shard_path(flowers_folder, "train", 0)
    path.rename(path.with_name(name))
    assert f"`{path.with_name(name)}` is not named <NN>-<S>x<S>-<COUNT>.tfrec" in refusal(
        data.find, path=str(flowers_folder)
    )


def test_a_file_named_for_another_size_than_its_folder_is_refused(flowers_folder):
    path = shard_path(flowers_folder, "train", 0)
    path.rename(path.with_name("00-32x32-8.tfrec"))
    assert "00-32x32-8.tfrec" in refusal(data.find, path=str(flowers_folder))


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("val", "test"), ("train", "test")])
def test_a_file_that_serves_two_splits_is_refused(flowers_folder, one, other):
    original = shard_path(flowers_folder, one, 0)
    length = original.stem.rsplit("-", 1)[1]
    copy = original.parent.parent / other / f"77-24x24-{length}.tfrec"
    copy.write_bytes(original.read_bytes())
    message = refusal(data.find, path=str(flowers_folder))
    assert f"`{copy}` is the same file as `{original}`" in message
    assert "remove one of them" in message


def test_counts_come_from_the_file_names(flowers_folder, flowers):
    assert {split: flowers.count(split) for split in data.SPLITS} == {"train": 23, "val": 9, "test": 7}
    assert "23 train, 9 val, 7 test images of 24 x 24 px, 4 classes" in str(flowers)
    path = shard_path(flowers_folder, "train", 2)
    path.rename(path.with_name("02-24x24-1234.tfrec"))
    assert data.find(path=str(flowers_folder)).count("train") == 8 + 8 + 1234


@pytest.mark.parametrize("limit", [1, 5, 8, 9, 20, 23, 1000])
def test_a_limit_leaves_the_first_images_of_each_split(numbered_23, limit):
    limited, count = replace(numbered_23, limit=limit), min(limit, 23)
    for start, split in enumerate(data.SPLITS):
        first = 23 * start + np.arange(count)
        assert (limited.count(split), limited.num_stored(split)) == (count, 23)
        batches = data.eval_batches(limited, split, 5)
        assert len(batches) == -(-count // 5)
        images, labels, ids = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True))
        np.testing.assert_array_equal(labels, first)
        np.testing.assert_array_equal(numbers(images[:, 12, 12]), first)
        for ours, theirs in zip(data.labels_and_ids(limited, split), (labels, data.decode_utf8(ids)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert f"{count} train, {count} val, {count} test images" in str(limited)


def test_training_takes_the_images_within_the_limit_each_once_before_any_twice(numbered_23):
    limited = replace(numbered_23, limit=9)  # in the second file of three
    taken = order(data.train_batches(limited, 4, seed=3), 5 * 9)
    for start in range(0, len(taken), 9):
        assert sorted(taken[start : start + 9]) == list(range(9))
    assert "`batch_size` (=10) must be at most the 9 training images" in refusal(data.train_batches, limited, 10)


def test_a_limit_changes_neither_the_fingerprint_nor_what_is_checked(records, write_flowers, tmp_path):
    records["train"][2][6].pop("class")
    flowers = data.find(path=write_flowers(tmp_path, records))
    limited = replace(flowers, limit=1)
    assert limited.fingerprint == flowers.fingerprint
    assert "record 6: has no feature 'class'" in refusal(data.check, limited, progress=False)


# What `check` refuses


def test_check_accepts_what_the_competition_may_hold(records, write_flowers, tmp_path):
    for shard in records["train"]:
        for record in shard:
            del record["id"]  # "an id also occurs there": it may as well not
    for record in records["test"][0]:
        record["class"] = 0
    records["val"][0][0]["photographer"] = b"Anna Atkins"
    data.check(data.find(path=write_flowers(tmp_path, records)), progress=False)


whole, png = jpeg(plain(SIZE)), jpeg(plain(SIZE), format="PNG")
BAD_RECORDS = {  # split, file, record, what becomes of it, what the error says
    "no image": ("train", 1, 2, lambda r: r.pop("image"), "has no feature 'image', only ['class', 'id']"),
    "no class": ("val", 0, 3, lambda r: r.pop("class"), "has no feature 'class', only ['id', 'image']"),
    "no test id": ("test", 1, 1, lambda r: r.pop("id"), "has no feature 'id', only ['image']"),
    "empty test id": ("test", 1, 1, lambda r: r.update(id=b""), "id"),
    "id is a number": ("test", 0, 0, lambda r: r.update(id=7), "id"),
    "image is a number": ("test", 0, 2, lambda r: r.update(image=7), "`image` is not a JPEG (it begins with nothing"),
    "PNG": ("train", 2, 6, lambda r: r.update(image=png), "`image` is not a JPEG (it begins with 89 50 4e 47"),
    "empty image": ("val", 1, 0, lambda r: r.update(image=b""), "`image` is not a JPEG"),
    "10-byte JPEG": ("train", 0, 0, lambda r: r.update(image=whole[:10]), "cannot be decoded (10 bytes)"),
    "half a JPEG": ("test", 0, 3, lambda r: r.update(image=whole[:400]), "cannot be decoded (400 bytes)"),
    "wrong size": ("val", 0, 1, lambda r: r.update(image=jpeg(plain(32))), "shape (32, 32, 3), not (24, 24, 3)"),
    "not square": ("val", 0, 1, lambda r: r.update(image=jpeg(plain(32)[:24])), "shape (24, 32, 3), not (24, 24, 3)"),
    "label too large": ("train", 1, 7, lambda r: r.update({"class": 4}), "label [4] must be one of 0 to 3"),
    "negative label": ("val", 1, 3, lambda r: r.update({"class": -1}), "label [-1] must be one of 0 to 3"),
    "label is a word": ("train", 0, 5, lambda r: r.update({"class": b"rose"}), "label [] must be one of 0 to 3"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_named_with_its_file_its_number_and_the_remedy(records, write_flowers, tmp_path, name):
    split, shard, index, change, complaint = BAD_RECORDS[name]
    change(records[split][shard][index])
    flowers = data.find(path=write_flowers(tmp_path, records))
    message = refusal(data.check, flowers, progress=False)
    assert message.startswith(f"`{flowers.shards[split][shard]}` record {index}: ")
    assert complaint in message
    assert message.endswith("; fetch or make the file again")


def test_a_record_that_is_no_example_is_named(flowers_folder):
    path = shard_path(flowers_folder, "val", 0)
    examples = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [*examples[:2], b"not a protocol buffer", *examples[3:]]:
            writer.write(record)
    message = refusal(data.check, data.find(path=str(flowers_folder)), progress=False)
    assert message.startswith(f"`{path}` record 2: ")


@pytest.mark.parametrize(("one", "other"), [(("test", 0, 1), ("test", 1, 2)), (("train", 2, 0), ("val", 0, 3))])
def test_an_id_that_occurs_twice_is_named_with_both_places(records, write_flowers, tmp_path, one, other):
    for split, shard, index in (one, other):
        records[split][shard][index]["id"] = b"c0ffee123"
    flowers = data.find(path=write_flowers(tmp_path, records))
    message = refusal(data.check, flowers, progress=False)
    first, second = (f"`{flowers.shards[split][shard]}` record {index}" for split, shard, index in (one, other))
    assert f"{second}: id 'c0ffee123' is also that of {first}" in message
    assert "ids must be unique" in message


@pytest.mark.parametrize("named", [7, 9])
def test_a_file_whose_name_tells_another_count_is_refused(flowers_folder, named):
    path = shard_path(flowers_folder, "train", 1)
    path = path.rename(path.with_name(f"01-24x24-{named}.tfrec"))
    message = refusal(data.check, data.find(path=str(flowers_folder)), progress=False)
    assert f"`{path}` holds 8 records but its name says {named}" in message
    assert "fetch the file again" in message


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.5, 0.999])
def test_a_truncated_file_is_named(flowers_folder, kept):
    path = shard_path(flowers_folder, "val", 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = refusal(data.check, data.find(path=str(flowers_folder)), progress=False)
    assert message.startswith(f"`{path}` ")
    assert "fetch the file again" in message


def test_one_flipped_bit_anywhere_in_a_file_is_noticed(write_flowers, tmp_path):
    shards = {split: [[{"image": jpeg(plain(8)), "class": 1, "id": split.encode()}]] for split in data.SPLITS}
    flowers = data.find(path=write_flowers(tmp_path, shards, size=8))
    path = Path(flowers.shards["train"][0])
    content = path.read_bytes()
    # Each byte of the length (8), of its checksum (4) and of the record's (the last 4), and 24 bytes of the record.
    record = np.linspace(12, len(content) - 5, 24, dtype=int)
    for number, place in enumerate([*range(12), *record, *range(len(content) - 4, len(content))]):
        flipped = bytearray(content)
        flipped[place] ^= 1 << number % 8
        path.write_bytes(flipped)
        assert f"`{path}` record 0: truncated, or altered" in refusal(data.check, flowers, progress=False)
    path.write_bytes(content)
    data.check(flowers, progress=False)


# Training batches


def order(batches, count):
    """The numbers of the first `count` images."""
    found = []
    for images, _ in batches:
        found.extend(numbers(images[:, 12, 12]))
        if len(found) >= count:
            return found[:count]
    raise AssertionError("training batches must not end")


def test_every_image_comes_once_before_any_comes_twice(numbered_23):
    # 23 images in batches of 5: four of five epochs begin within a batch.
    taken = order(data.train_batches(numbered_23, 5, seed=3), 5 * 23)
    epochs = [taken[start : start + 23] for start in range(0, len(taken), 23)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 5  # each in an order of its own
    assert list(range(23)) not in epochs


def test_augmented_and_mixed_batches_keep_the_order(numbered_23):
    expected = order(data.train_batches(numbered_23, 5, seed=3), 60)
    assert order(data.train_batches(numbered_23, 5, seed=3, augment=MOVED), 60) == expected
    labels = [labels for _, labels in data.train_batches(numbered_23, 5, seed=3, mix=augmentation.cutmix).take(12)]
    for batch, given in zip(np.concatenate(labels).reshape(12, 5, -1), np.reshape(expected, (12, 5)), strict=True):
        for row, number, partner in zip(batch, given, given[::-1], strict=True):
            assert set(np.flatnonzero(row)) <= {number, partner}


def test_images_and_labels_belong_together(numbered_23):
    for images, labels in data.train_batches(numbered_23, 6).take(8):
        np.testing.assert_array_equal(np.argmax(labels, axis=1), numbers(images[:, 5, 5]))
        np.testing.assert_array_equal(np.sort(labels, axis=1)[:, -2:], [[0, 1]] * 6)  # one-hot


@pytest.mark.parametrize("mix", augmentation.MIXES)
def test_the_same_seed_gives_the_same_batches(flowers, mix):
    def first(seed):
        batches = data.train_batches(
            flowers, 6, augment=augmentation.Augmentation(), mix=augmentation.MIXES[mix], seed=seed
        )
        return [[array.numpy() for array in batch] for batch in batches.take(9)]

    for one, other in zip(first(11), first(11), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert not any(np.array_equal(one[0], other[0]) for one, other in zip(first(11), first(12), strict=True))


def test_the_batches_do_not_depend_on_the_seed_of_the_whole_program(numbered_23):
    orders = []
    for program_seed in (1, 2):
        keras.utils.set_random_seed(program_seed)
        orders.append(order(data.train_batches(numbered_23, 5, seed=3), 23))
    assert orders[0] == orders[1]


def test_another_seed_gives_another_order(numbered_23):
    orders = {tuple(order(data.train_batches(numbered_23, 5, seed=seed), 23)) for seed in range(4)}
    assert len(orders) == 4


def test_an_image_is_augmented_anew_each_time(numbered_23):
    brighten = replace(augmentation.IDENTITY, brightness=0.5)
    shades = {number: set() for number in range(23)}
    for images, labels in data.train_batches(numbered_23, 23, augment=brighten).take(5):
        for image, number in zip(images, np.argmax(labels, axis=1), strict=True):
            shades[number].add(int(image[0, 0, 2]))
    assert min(map(len, shades.values())) >= 4  # of five; two of 255 shades may be the same by chance
    assert sum(map(len, shades.values())) >= 0.95 * 5 * 23


def test_every_batch_is_full_and_its_shape_is_known_before_it_is_read(numbered_23):
    batches = data.train_batches(
        numbered_23, 5, augment=augmentation.Augmentation(), mix=augmentation.cutmix, image_size=32
    )
    images, labels = batches.element_spec
    assert (images.shape, images.dtype) == ((5, 32, 32, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((5, 69), tf.float32)
    assert {tuple(images.shape) for images, _ in batches.take(10)} == {(5, 32, 32, 3)}


def test_a_batch_may_be_as_large_as_the_split_but_not_larger(numbered_23):
    assert len(next(iter(data.train_batches(numbered_23, 23)))[0]) == 23
    message = refusal(data.train_batches, numbered_23, 24)
    assert message == "`batch_size` (=24) must be at most the 23 training images"


@pytest.mark.parametrize("named", [6, 8])
def test_training_refuses_files_that_hold_another_number_of_images_than_their_names_say(flowers_folder, named):
    path = shard_path(flowers_folder, "train", 2)
    path.rename(path.with_name(f"02-24x24-{named}.tfrec"))
    message = refusal(data.train_batches, data.find(path=str(flowers_folder)), 4)
    assert str(16 + named) in message
    assert "flowerlib check" in message


@pytest.mark.parametrize("batch_size", [4, 5])  # with 5, the middle image is its own partner
@pytest.mark.parametrize("mix", [augmentation.cutmix, augmentation.mixup])
def test_labels_of_mixed_batches_say_what_share_of_the_pixels_is_whose(numbered_23, mix, batch_size):
    blue, colours = 128, np.array([(16 * (number % 16) + 8, 16 * (number // 16) + 8) for number in range(69)])
    mixed = 0
    for images, labels in data.train_batches(numbered_23, batch_size, mix=mix).take(10):
        np.testing.assert_allclose(np.sum(labels, axis=1), 1, rtol=1e-6)
        mean = np.mean(images, axis=(1, 2))
        np.testing.assert_allclose(mean[:, :2], labels @ colours, atol=2)  # JPEG moves a colour by up to 2
        np.testing.assert_allclose(mean[:, 2], blue, atol=2)
        mixed += np.count_nonzero(np.max(labels, axis=1) < 0.99)
    assert mixed > 10


# Validation and test batches


@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_a_split_is_read_once_in_file_order_with_nothing_dropped(numbered_23, split):
    start = 23 * data.SPLITS.index(split)
    batches = data.eval_batches(numbered_23, split, 5)
    assert len(batches) == 5  # known before they are read, for Keras' progress bar
    batches = list(batches.as_numpy_iterator())
    assert [len(images) for images, _, _ in batches] == [5, 5, 5, 5, 3]
    images, labels, ids = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    expected = np.arange(start, start + 23)
    np.testing.assert_array_equal(numbers(images), np.broadcast_to(expected[:, None, None], (23, SIZE, SIZE)))
    np.testing.assert_array_equal(labels, expected)
    assert [int(name, 16) for name in ids] == expected.tolist()


def test_evaluation_batches_have_static_shapes_but_for_their_length(numbered_23):
    images, labels, ids = data.eval_batches(numbered_23, "val", 5, image_size=16).element_spec
    assert images.shape.as_list() == [None, 16, 16, 3]
    assert (images.dtype, labels.dtype, ids.dtype) == (tf.uint8, tf.int64, tf.string)


def test_a_record_without_id_gets_its_split_and_position(records, write_flowers, tmp_path):
    for shard, index in ((0, 0), (1, 2)):
        del records["val"][shard][index]["id"]
    flowers = data.find(path=write_flowers(tmp_path, records))
    ids = np.concatenate([ids for _, _, ids in data.eval_batches(flowers, "val", 4).as_numpy_iterator()])
    given = [record.get("id") for shard in records["val"] for record in shard]
    assert [name for name, own in zip(ids, given, strict=True) if own is None] == [b"val-000000", b"val-000007"]
    assert [name for name, own in zip(ids, given, strict=True) if own] == [own for own in given if own]


def test_pixels_are_those_of_the_stored_jpeg(flowers, records):
    images, _, _ = next(iter(data.eval_batches(flowers, "test", 7)))
    stored = [np.array(Image.open(io.BytesIO(record["image"]))) for shard in records["test"] for record in shard]
    np.testing.assert_array_equal(images, stored)


@pytest.mark.parametrize("image_size", [15, 24, 48])
def test_images_are_resized_as_pillow_does_it(flowers, records, image_size):
    images, _, _ = next(iter(data.eval_batches(flowers, "val", 9, image_size=image_size)))
    for image, record in zip(images, (record for shard in records["val"] for record in shard), strict=True):
        stored = Image.open(io.BytesIO(record["image"]))
        expected = stored.resize((image_size, image_size), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image, np.asarray(expected), atol=1.01)  # Pillow rounds, twice


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_decoding_gives_the_pixels_that_pillow_gives(records, write_flowers, tmp_path, mode, subsampling, progressive):
    rng = np.random.default_rng(0)
    coded = []
    for _ in range(3):
        noise = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((SIZE, SIZE)).convert(mode)
        noise.save(buffer := io.BytesIO(), "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
        coded.append(buffer.getvalue())
    content = {split: [[dict(record, image=image) for record, image in zip(records[split][0], coded, strict=False)]]
               for split in data.SPLITS}  # fmt: skip
    flowers = data.find(path=write_flowers(tmp_path, content))
    expected = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in coded]
    for batches in (data.eval_batches(flowers, "val", 2), data.train_batches(flowers, 1).take(flowers.count("train"))):
        found = np.concatenate([images for images, *_ in batches.as_numpy_iterator()])
        assert {image.tobytes() for image in found} == {image.tobytes() for image in expected[: len(found)]}


def test_what_check_lets_pass_can_be_read(records, write_flowers, tmp_path):
    """Bytes between two segments, which libjpeg-turbo warns of; the pixels are whole."""
    whole = numbered(3)
    first = 4 + int.from_bytes(whole[4:6], "big")  # where the first segment ends
    records["train"][0][0]["image"] = whole[:first] + b"\0\1\2" + whole[first:]
    flowers = data.find(path=write_flowers(tmp_path, records))
    data.check(flowers, progress=False)
    images = np.concatenate([images for images, _ in data.train_batches(flowers, 1).take(flowers.count("train"))])
    assert any((numbers(image) == 3).all() for image in images)


def test_a_grey_photograph_passes_the_check_and_is_read_as_three_equal_channels(records, write_flowers, tmp_path):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8))
    grey.save(buffer := io.BytesIO(), "JPEG", quality=90)
    expected = np.repeat(np.asarray(Image.open(io.BytesIO(buffer.getvalue())))[:, :, None], 3, axis=2)
    for split in ("train", "val"):
        records[split][0][2]["image"] = buffer.getvalue()
    flowers = data.find(path=write_flowers(tmp_path, records))
    data.check(flowers, progress=False)
    evaluated = next(iter(data.eval_batches(flowers, "val", 9)))[0]
    np.testing.assert_array_equal(evaluated[2], expected)
    trained = np.concatenate([images for images, _ in data.train_batches(flowers, 1).take(flowers.count("train"))])
    assert sum((image == expected).all() for image in trained) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (jpeg(plain(SIZE + 8)), f"{SIZE + 8},{SIZE + 8},3"),
        (jpeg(plain(SIZE - 8)), f"{SIZE - 8},{SIZE - 8},3"),
        (numbered(3)[:300], "Invalid JPEG data or crop window"),
    ],
)
def test_an_image_of_another_size_or_cut_short_stops_the_reading(records, write_flowers, tmp_path, wrong, message):
    records["train"][0][0]["image"] = wrong
    flowers = data.find(path=write_flowers(tmp_path, records))
    with pytest.raises(tf.errors.OpError, match=message):
        list(data.train_batches(flowers, 1).take(flowers.count("train")))
