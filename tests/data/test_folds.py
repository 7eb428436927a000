"""Parts of the labelled images: against the records, read one by one, and against counting by hand."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowerlib import data, evaluation
from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.data import folds


def read(flowers, *splits):
    """What the files hold, without flowerlib's own pipeline: `(id, label, image)` of each record, in file order."""
    found = []
    for split in splits:
        for record in tf.data.TFRecordDataset(list(flowers.shards[split])).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            image = np.asarray(Image.open(io.BytesIO(features["image"].bytes_list.value[0])))
            found.append((features["id"].bytes_list.value[0].decode(), features["class"].int64_list.value[0], image))
    return found


def evaluated(flowers, split, batch_size=4, **options):
    batches = data.eval_batches(flowers, split, batch_size, **options)
    return [
        (record_id.decode(), label, image)
        for images, labels, ids in batches.as_numpy_iterator()
        for record_id, label, image in zip(ids, labels.tolist(), images, strict=True)
    ]


def assert_same(found, expected):
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine[2], theirs[2])


def ids(flowers, split):
    return data.labels_and_ids(flowers, split)[1].tolist()


def test_each_labelled_image_is_val_in_one_fold_and_train_in_all_others(flowers):
    every = read(flowers, "train", "val")
    in_val = []
    for number in range(3):
        folded = data.fold(flowers, number, 3)
        val = set(ids(folded, "val"))
        assert_same(evaluated(folded, "val"), [row for row in every if row[0] in val])
        assert_same(evaluated(folded, "train"), [row for row in every if row[0] not in val])
        assert_same(evaluated(folded, "train", start=8), evaluated(folded, "train")[8:])
        assert (folded.count("train") + folded.count("val"), folded.count("test")) == (32, 7)
        assert ids(folded, "test") == ids(flowers, "test")
        assert f"{32 - len(val)} train, {len(val)} val, 7 test images" in str(folded)
        in_val += val
    assert sorted(in_val) == sorted(row[0] for row in every)


def test_training_takes_the_images_of_its_part_each_once_before_any_twice(flowers):
    folded = data.fold(flowers, 1, 3)
    count = folded.count("train")
    expected = sorted(image.tobytes() for _, _, image in evaluated(folded, "train"))
    labels_of = {image.tobytes(): label for _, label, image in read(flowers, "train", "val")}
    batches = data.train_batches(folded, 1, seed=3).take(2 * count).as_numpy_iterator()
    taken = [(images[0].tobytes(), int(labels[0].argmax())) for images, labels in batches]
    for epoch in (taken[:count], taken[count:]):
        assert sorted(image for image, _ in epoch) == expected
    assert all(labels_of[image] == label for image, label in taken)
    rare = data.train_batches(folded, 4, sampling="balanced").take(5).as_numpy_iterator()
    assert {image.tobytes() for images, _ in rare for image in images} <= set(expected)


def again(jpeg, change=lambda image: image):
    """The same picture, encoded anew."""
    encoded = io.BytesIO()
    change(Image.open(io.BytesIO(jpeg))).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


@pytest.fixture
def with_pairs(records, write_flowers, tmp_path):
    """A dataset with two pairs across train and val, one of them mirrored, and one within train."""
    train, val = records["train"], records["val"]
    val[0][1]["image"] = again(train[0][4]["image"])
    val[1][2]["image"] = again(train[2][0]["image"], ImageOps.mirror)
    train[1][5]["image"] = again(train[0][7]["image"])
    places = [(train[0][4], val[0][1]), (train[2][0], val[1][2]), (train[0][7], train[1][5])]
    pairs = [{one["id"].decode(), other["id"].decode()} for one, other in places]
    return data.find(path=write_flowers(tmp_path / "pairs", records)), pairs


def test_no_near_duplicates_are_parted_mirrored_or_not(with_pairs):
    flowers, pairs = with_pairs
    table = evaluation.image_table(flowers, progress=False)
    found = evaluation.near_duplicates(table[table["split"] != "test"], data.MAX_HASH_DISTANCE)
    named = [{name.split()[1] for name in pair} for pair in zip(found["left"], found["right"], strict=True)]
    assert all(pair in named for pair in pairs)
    assert found["mirrored"].any()
    for seed in range(5):
        val = set(ids(data.fold(flowers, 0, 2, seed), "val"))
        assert all(len(pair & val) != 1 for pair in named), seed


def shares(labels, part, parts):
    """How far each part's count of each class is from its share."""
    classes = np.unique(labels)
    return [abs((labels[part == each] == label).sum() - (labels == label).sum() / parts) for each in range(parts)
            for label in classes]  # fmt: skip


@pytest.mark.parametrize("parts", [2, 3, 5, 10])
def test_each_class_has_its_share_in_each_part_within_one_image(parts):
    """Classes of 3 to 200 images; in every tenth place there is a near-duplicate of the image before it."""
    rng = np.random.default_rng(parts)
    labels = rng.permutation(np.repeat(np.arange(30), rng.integers(3, 200, 30)))
    names = np.arange(len(labels)).astype(str)
    alone = np.arange(len(labels))
    part = folds.assign(labels, names, alone, parts, seed=0)
    assert max(shares(labels, part, parts)) < 1
    assert np.ptp(np.bincount(part, minlength=parts)) <= 30
    burst = np.where((alone % 10 == 9) & (labels == np.roll(labels, 1)), alone - 1, alone)
    part = folds.assign(labels, names, burst, parts, seed=0)
    assert (part[burst] == part).all()
    assert max(shares(labels, part, parts)) < 2


def test_the_tiny_datasets_classes_of_eight_are_divided_evenly(flowers):
    """Eight images of each of four classes, two of each in each of four parts."""
    for number in range(4):
        labels, _ = data.labels_and_ids(data.fold(flowers, number, 4), "val")
        assert np.bincount(labels).tolist() == [2, 2, 2, 2]


def test_the_same_seed_gives_the_same_parts_in_another_process_too_and_another_seed_others(flowers):
    script = (
        "import json, sys; from flowerlib import data\n"
        "folded = data.fold(data.find(path=sys.argv[1]), 1, 3, seed=7)\n"
        "print(json.dumps([folded.selection, folded.fingerprint]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", script, flowers.root], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here, other = (data.fold(flowers, 1, 3, seed=seed) for seed in (7, 8))
    assert json.loads(done.stdout) == json.loads(json.dumps([here.selection, here.fingerprint]))
    assert other.selection != here.selection


def test_the_fingerprint_tells_folds_apart(flowers):
    divided = [data.fold(flowers, number, folds) for folds in (2, 3) for number in range(folds)]
    assert len({each.fingerprint for each in [flowers, data.train_on_all(flowers), *divided]}) == 7


def test_an_image_without_id_is_called_by_the_place_where_it_is_in_every_fold(records, write_flowers, tmp_path):
    for record in (records["train"][1][2], records["val"][1][3]):
        record.pop("id")
    flowers = data.find(path=write_flowers(tmp_path, records))
    names = {"train-000010", "val-000008"}
    assert names <= {*ids(flowers, "train"), *ids(flowers, "val")}
    for number in range(3):
        folded = data.fold(flowers, number, 3)
        assert names <= {*ids(folded, "train"), *ids(folded, "val")}
        assert [row[0] for row in evaluated(folded, "val")] == ids(folded, "val")


def test_all_labelled_images_are_train_and_none_is_val(flowers):
    whole = data.train_on_all(flowers)
    assert_same(evaluated(whole, "train"), read(flowers, "train", "val"))
    assert evaluated(whole, "val") == []
    assert [whole.count(split) for split in data.SPLITS] == [32, 0, 7]


def test_of_a_limited_dataset_the_images_within_the_limit_are_divided(flowers):
    limited = replace(flowers, limit=6)
    folded = [data.fold(limited, number, 2) for number in range(2)]
    expected = [row[0] for split in ("train", "val") for row in read(flowers, split)[:6]]
    assert sorted(ids(folded[0], "val") + ids(folded[1], "val")) == sorted(expected)
    assert [each.count("test") for each in folded] == [6, 6]


def test_the_errors_gallery_and_the_image_table_have_the_images_of_the_fold(flowers):
    folded = data.fold(flowers, 0, 3)
    table = evaluation.image_table(folded, progress=False)
    val = table[table["split"] == "val"]
    expected = evaluated(folded, "val")
    assert val["label"].tolist() == [label for _, label, _ in expected]
    np.testing.assert_array_equal(evaluation.load_images(folded, val), np.stack([image for *_, image in expected]))
    whole = evaluation.image_table(flowers, progress=False)
    kilobytes = {name.split()[1]: value for name, value in whole["kilobytes"].items()}
    assert val["kilobytes"].tolist() == [kilobytes[name] for name, *_ in expected]


def test_files_from_elsewhere_are_fetched_once_for_all_folds(records, write_flowers):
    flowers = data.find(path=write_flowers("ram://folds/flowers", records))
    folded = data.fold(flowers, 0, 3)
    for split in data.SPLITS:
        assert data.local_files(folded, split) == data.local_files(flowers, split)


def test_more_folds_than_images_are_an_error(flowers):
    with pytest.raises(FlowersError, match=r"`folds` \(=40\) must be fewer: of 32 labelled images"):
        data.fold(flowers, 0, 40)
