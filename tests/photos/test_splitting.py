"""Splits are stratified and keep near-duplicates together."""

import hashlib
import math

import numpy as np
import pandas as pd
import pytest

from flowerlib import data
from flowerlib.config import FlowersError
from flowerlib.photos import splitting


def table_of(*classes):
    """Return the table of classes, each given by the sizes of its groups of near-duplicates; no image is needed."""
    rows = []
    for label, sizes in enumerate(classes):
        for burst, size in enumerate(sizes):
            first = len(rows)
            rows += [(str(label), first, f"{label}/{burst}/{number}".encode()) for number in range(size)]
    return pd.DataFrame(rows, columns=["label", "group", "content"]).assign(broken=False, given="")


def split_groups(*classes, val=0.15, test=0.15, seed=0):
    table = table_of(*classes)
    return table.assign(split=splitting.assign_splits(table, val, test, seed))


def test_a_photograph_goes_where_the_hash_of_its_content_falls():
    """Worked out by hand with hashlib."""
    table = split_groups([1] * 200, val=0.2, test=0.1, seed=7)
    for content, split in zip(table["content"], table["split"], strict=True):
        position = int(hashlib.sha256(b"7/split/" + content).hexdigest()[:16], 16) / 2**64
        assert split == ("test" if position < 0.1 else "val" if position < 0.3 else "train")


def test_each_split_has_its_share():
    counts = split_groups(*[[1] * 10] * 400)["split"].value_counts()
    for split, share in {"train": 0.7, "val": 0.15, "test": 0.15}.items():
        assert abs(counts[split] - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share)) + 0.02 * 4000
    assert abs(counts["val"] - counts["test"]) < 4 * math.sqrt(1200)


def test_other_photographs_do_not_change_a_split():
    before = split_groups(*[[1] * 50] * 10)
    more = split_groups(*[[1] * 51] * 10, [1] * 9)
    known = dict(zip(more["content"], more["split"], strict=True))
    assert [known[content] for content in before["content"]] == before["split"].tolist()


def test_a_split_that_was_given_stays_and_new_near_duplicates_follow_it():
    table = table_of([1] * 30, [2] * 10)
    first = splitting.assign_splits(table, 0.15, 0.15, 0)
    table["given"] = first.where(table.index % 2 == 0, "")
    again = splitting.assign_splits(table, 0.15, 0.15, seed=99)  # another hash for those that are free
    kept = table["given"] != ""
    assert (again[kept] == first[kept]).all()
    assert (again[30:] == first[30:]).all()  # one of each pair was given


def test_a_group_is_known_by_its_smallest_digest_in_whatever_order_it_is_listed():
    table = table_of([3] * 40)
    turned = table.iloc[::-1].reset_index(drop=True)
    splits, again = (splitting.assign_splits(each, 0.15, 0.15, 0) for each in (table, turned))
    assert again[::-1].tolist() == splits.tolist()


def test_a_class_of_three_has_one_in_each_split_and_train_has_one_whatever_its_share():
    for sizes, val, test in (([1, 1, 1], 0.15, 0.15), ([1, 1, 1], 0.01, 0.01), ([5, 4, 4], 0.45, 0.45)):
        for seed in range(20):
            table = split_groups(sizes, [1] * 100, val=val, test=test, seed=seed)
            assert set(table.query("label == '0'")["split"]) == {"train", "val", "test"}


def test_a_class_of_two_goes_to_train():
    table = split_groups([1, 1], [1] * 100)
    assert set(table.query("label == '0'")["split"]) == {"train"}


def test_no_group_is_divided_and_a_burst_goes_to_no_split_of_half_its_size():
    rng = np.random.default_rng(0)
    for seed in range(100):
        sizes = np.minimum(rng.zipf(1.7, rng.integers(3, 40)), 50).tolist()
        val, test = rng.uniform(0.05, 0.3, 2)
        table = split_groups(sizes, [1] * 100, val=val, test=test, seed=seed)
        assert (table["split"] != "").all()
        assert {len(set(splits)) for _, splits in table.groupby("group")["split"]} == {1}
        for split, share in (("val", val), ("test", test)):
            of_class = table.query("label == '0'")
            largest = of_class[of_class["split"] == split].groupby("group").size().max()
            assert not largest > max(1, 2 * share * sum(sizes)), (sizes, split)


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    one, again, other = (split_groups([1] * 30, [2] * 20, seed=seed)["split"].tolist() for seed in (3, 3, 4))
    assert one == again != other


def test_a_split_without_an_image_is_an_error():
    with pytest.raises(FlowersError, match="no image is left for val: no class has 3 different photographs"):
        split_groups([1, 1], [1, 1])


def test_near_duplicates_across_given_splits_are_counted():
    table = table_of([2, 2, 1, 1]).assign(split=["train", "val", "train", "train", "val", "test"])
    assert splitting.count_leaks(table) == 1


def test_links_between_images_make_groups_named_by_their_first_row():
    """Two chains, 0-3-5 and 1-4, given in any order, and 2 alone."""
    pairs = [(3, 5), (4, 1), (0, 3)]
    for order in (pairs, pairs[::-1]):
        assert data.connected_components(6, order).tolist() == [0, 1, 2, 0, 1, 0]


def test_copies_and_near_duplicates_are_grouped_and_broken_files_are_not():
    """By hand: the hashes of b and c differ from a's in 6 and 7 bits; d's mirror image is like a; e has a's pixels."""
    zero = np.uint64(0)
    rows = [  # digest, hash, mirrored
        ("a", zero, np.uint64(2**64 - 1)),
        ("b", np.uint64(0b111111), np.uint64(2**64 - 1)),
        ("c", np.uint64(0b1111111 << 20), np.uint64(2**64 - 1)),
        ("d", np.uint64(2**40 - 1), zero),
        ("a", zero, np.uint64(2**64 - 1)),
        ("a", zero, np.uint64(2**64 - 1)),
    ]
    table = pd.DataFrame(rows, columns=["digest", "hash", "mirrored"])
    table = table.assign(id=list("abcdex"), label=["rose"] * 4 + ["iris"] * 2, note="", broken=[False] * 5 + [True])
    grouped = splitting.group_near_duplicates(table)
    assert grouped["group"].tolist() == [0, 0, 2, 0, 0, 5]
    assert grouped["note"].tolist() == ["", "like a", "", "like a", "like a, which has another label", ""]
