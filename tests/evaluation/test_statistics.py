import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.fft import dctn

from flowerlib import data
from flowerlib.accelerator import tf
from flowerlib.data import duplicates
from flowerlib.evaluation import statistics

PHOTOGRAPHS = os.environ.get("FLOWERS_DATA")  # read here: fixtures clean the environment
THRESHOLD = 6  # bits, MAX_DISTANCE in notebooks/01_eda.py


def decoded(flowers, split):
    return np.concatenate([images for images, _, _ in data.eval_batches(flowers, split, 4)])


def hamming_distances(first, second):
    """How many bits differ, one by one."""
    return np.array([bin(int(a) ^ int(b)).count("1") for a, b in zip(first, second, strict=True)])


def invented(number, seed=0, size=96):
    """Images that have, as photographs do, most of their energy in low frequencies."""
    coarse = np.random.default_rng(seed).normal(128, 60, (number, 9, 9, 3))
    return np.clip(tf.image.resize(coarse, (size, size), "bicubic"), 0, 255).astype(np.float32)


def compressed(images, quality=30):
    coded = [tf.io.encode_jpeg(tf.cast(image, tf.uint8), quality=quality) for image in images]
    return np.stack([tf.cast(tf.io.decode_jpeg(code), tf.float32) for code in coded])


def resized(images, size):
    small = tf.image.resize(images, (size, size), antialias=True)
    return tf.image.resize(small, images.shape[1:3]).numpy()


@pytest.fixture
def image_table(flowers, monkeypatch):
    monkeypatch.setattr(statistics, "BATCH", 5)  # several batches a split, the last one partial
    return statistics.image_table(flowers, progress=False)


def test_the_image_table_has_one_row_an_image_in_file_order(image_table, flowers, records):
    expected = [
        (f"{split} {record['id'].decode()}", record.get("class", -1), len(record["image"]) / 1000)
        for split, shards in records.items()
        for shard in shards
        for record in shard
    ]
    assert list(image_table.index) == [name for name, _, _ in expected]
    assert list(image_table["label"]) == [label for _, label, _ in expected]
    np.testing.assert_allclose(image_table["kilobytes"], [kilobytes for _, _, kilobytes in expected])
    assert list(image_table["class"]) == [[*flowers.classes, "?"][label] for _, label, _ in expected]
    assert list(image_table.loc[image_table["split"] == "val", "position"]) == list(range(flowers.count("val")))


def test_colours_are_means_of_all_pixels_and_of_the_middle(image_table, flowers):
    images = decoded(flowers, "val")
    val = image_table[image_table["split"] == "val"]
    np.testing.assert_allclose(val[statistics.WHOLE], images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(val[statistics.MIDDLE], images[:, 6:18, 6:18].mean((1, 2)), rtol=1e-5)


def test_of_a_limited_dataset_the_table_has_the_first_images_of_each_split(image_table, flowers):
    limited = statistics.image_table(replace(flowers, limit=7), progress=False)  # batches of five
    pd.testing.assert_frame_equal(limited, image_table[image_table["position"] < 7])


def test_images_come_in_the_order_asked_for(image_table, flowers):
    chosen = image_table.sample(20, random_state=1)
    assert chosen["split"].nunique() == 3
    every = {split: decoded(flowers, split) for split in data.SPLITS}
    expected = [every[split][position] for split, position in zip(chosen["split"], chosen["position"], strict=True)]
    np.testing.assert_array_equal(statistics.load_images(flowers, chosen), np.stack(expected))


def test_no_images_of_no_rows(image_table, flowers):
    assert statistics.load_images(flowers, image_table.head(0)).shape == (0, 24, 24, 3)


def test_class_counts(image_table, flowers):
    counts = statistics.class_counts(image_table, 6)
    for split in ("train", "val"):
        expected = Counter(int(label) for _, labels, _ in data.eval_batches(flowers, split, 64) for label in labels)
        assert list(counts[split]) == [expected[label] for label in range(6)]
    assert list(counts) == ["train", "val"]


def test_ignoring_rare_classes_costs_their_share_of_images_in_accuracy_and_a_class_each_in_macro_f1():
    labels = np.repeat([0, 2, 3], [1, 2, 7])  # class 1 has no image
    table = statistics.score_ignoring_rare(labels, 4)
    assert list(table["ignored"]) == [0, 1, 2]
    np.testing.assert_allclose(table["accuracy"], [1, 0.9, 0.7])
    # The frequent class gets the false positives: F1 = 2 * 7 / (7 + 7 + wrong ones).
    np.testing.assert_allclose(table["macro_f1"], [1, (0 + 1 + 14 / 15) / 3, (0 + 0 + 14 / 17) / 3])


def coloured(rows):
    """An image table of single-coloured images, `(split, label, red, green, blue)` each."""
    table = pd.DataFrame(rows, columns=["split", "label", *statistics.WHOLE])
    return table.assign(**dict(zip(statistics.MIDDLE, (table[name] for name in statistics.WHOLE), strict=True)))


def test_colour_strips_run_from_dark_to_bright_and_are_ordered_by_hue():
    blues = [("train", 0, 0.0, 0.0, light) for light in (200.0, 50.0, 100.0)]
    reds = [("train", 2, light, 0.0, 0.0) for light in (30.0, 10.0)]
    strips, order = statistics.colour_strips(coloured([*blues, *reds, ("val", 1, 9.0, 9.0, 9.0)]), length=3)
    assert list(order) == [2, 0]
    np.testing.assert_array_equal(strips[1], [(0, 0, 50), (0, 0, 100), (0, 0, 200)])
    assert {tuple(cell) for cell in strips[0]} == {(10, 0, 0), (30, 0, 0)}


def test_colour_scores():
    train = [("train", label, 80.0 * label, 20.0, 20.0) for label in (0, 1, 1, 2)]
    val = [("val", label, 80.0 * label + 10, 20.0, 20.0) for label in (0, 1, 2, 2)]
    scores = statistics.colour_scores(coloured(train + val), 3)
    assert scores.loc["always the largest class", "accuracy"] == 1 / 4
    assert scores.loc["always the largest class", "macro_f1"] == pytest.approx(2 / 5 / 3)
    assert (scores.iloc[1:] == 1).all(axis=None)


def test_hash_is_that_of_scipys_cosine_transform():
    images = invented(20, size=64)
    grey = images.mean(axis=3).reshape(20, 32, 2, 32, 2).mean((2, 4))
    waves = dctn(grey, axes=(1, 2))[:, :8, 1:9].reshape(20, 64)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    expected = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    np.testing.assert_array_equal(data.perceptual_hashes(images)[0], expected)


def test_mirrored_hash_is_the_hash_of_the_mirror_image():
    images = invented(50)
    hashes, mirrored = data.perceptual_hashes(images)
    of_flipped = data.perceptual_hashes(images[:, :, ::-1])[0]
    assert hamming_distances(mirrored, of_flipped).max() <= 2  # a tie may fall either way
    assert hamming_distances(hashes, mirrored).mean() > 20


@pytest.mark.parametrize(
    "copy",
    [compressed, lambda images: resized(images, 48), lambda images: resized(images, 331), lambda images: images * 0.8],
    ids=["compressed", "halved", "enlarged", "darkened"],
)
def test_copies_are_within_the_threshold_and_unrelated_images_are_not(copy):
    images = invented(100)
    hashes, copies = data.perceptual_hashes(images)[0], data.perceptual_hashes(copy(images))[0]
    assert hamming_distances(hashes, copies).max() <= THRESHOLD
    unrelated = np.bitwise_count(hashes[:, None] ^ copies)[~np.eye(100, dtype=bool)]
    assert unrelated.min() > THRESHOLD


def hashed(hashes, mirrored, splits, labels):
    columns = {"hash": np.array(hashes, np.uint64), "mirrored": np.array(mirrored, np.uint64)}
    return pd.DataFrame(columns | {"split": splits, "label": labels}, [f"image {i}" for i in range(len(hashes))])


def test_near_duplicates_finds_what_comparing_one_by_one_finds(monkeypatch):
    monkeypatch.setattr(duplicates, "BATCH", 7)
    rng = np.random.default_rng(0)
    number = 40
    hashes, mirrored = rng.integers(0, 2**64, (2, number), dtype=np.uint64)
    for first, second in ((0, 1), (3, 30), (13, 14), (38, 39)):
        hashes[second] = hashes[first] ^ np.uint64(0b101)
    mirrored[35] = hashes[5] ^ np.uint64(1)
    mirrored[1] = hashes[0]  # symmetric: found both ways, listed once, by the smaller distance
    images = hashed(hashes, mirrored, rng.choice(data.SPLITS, number), rng.integers(0, 3, number))
    expected = {}
    for left in range(number):
        for right in range(left + 1, number):
            ways = enumerate((hashes, mirrored))
            distances = [(hamming_distances([hashes[left]], [other[right]])[0], way) for way, other in ways]
            if min(distances)[0] <= 8:
                expected[f"image {left}", f"image {right}"] = min(distances)
    pairs = statistics.near_duplicates(images, 8)
    found = {(row.left, row.right): (row.distance, row.mirrored) for row in pairs.itertuples()}
    assert found == expected
    assert len(expected) == len(pairs) == 5
    assert pairs["distance"].is_monotonic_increasing


def test_pairs_tell_whether_they_cross_splits_and_whether_the_classes_agree():
    images = hashed([7] * 4, [0] * 4, ["train", "train", "val", "test"], [1, 2, 1, -1])
    pairs = statistics.near_duplicates(images, 0).set_index(["left", "right"])
    assert pairs["across"].to_dict() == {
        ("image 0", "image 1"): False,
        ("image 0", "image 2"): True,
        ("image 0", "image 3"): True,
        ("image 1", "image 2"): True,
        ("image 1", "image 3"): True,
        ("image 2", "image 3"): True,
    }
    assert list(pairs["classes"]) == ["different", "same", "unknown", "different", "unknown", "unknown"]
    assert not pairs["mirrored"].any()


def test_leaks_count_images_not_pairs():
    images = hashed([7, 7, 7, 9, 9, 1], [0] * 6, ["train", "train", "val", "val", "val", "test"], [0] * 5 + [-1])
    leaks = statistics.count_cross_split_duplicates(images, statistics.near_duplicates(images, 0))
    assert leaks.to_dict() == {"images": {"val": 1, "test": 0}, "share": {"val": 1 / 3, "test": 0.0}}


@pytest.mark.skipif(PHOTOGRAPHS is None, reason="FLOWERS_DATA names no photographs to choose the threshold by")
def test_threshold_on_real_photographs():
    flowers = data.find(path=PHOTOGRAPHS)
    images = statistics.image_table(flowers, progress=False)
    sample = statistics.load_images(flowers, images[images["split"] != "test"].sample(500, random_state=0)).astype(
        np.float32
    )
    hashes = data.perceptual_hashes(sample)[0]
    for copies in (compressed(sample), resized(sample, 64), resized(sample[:, 2:-2, 2:-2], flowers.image_size)):
        assert np.mean(hamming_distances(hashes, data.perceptual_hashes(copies)[0]) <= THRESHOLD) > 0.98
    pairs = statistics.near_duplicates(images, THRESHOLD)
    assert (pairs["classes"] == "different").sum() <= 0.05 * len(pairs)
