"""Splits are stratified and keep near-duplicates together."""

import numpy as np
import pandas as pd
import pytest

from flowerlib.photos import splitting


def split_groups(*classes, val=0.15, test=0.15, seed=0):
    """Split classes, each given by the sizes of its groups of near-duplicates; no image is needed."""
    sizes = [(str(label), size) for label, groups in enumerate(classes) for size in groups]
    first = np.cumsum([0] + [size for _, size in sizes])
    rows = [(label, first[group]) for group, (label, size) in enumerate(sizes) for _ in range(size)]
    table = pd.DataFrame(rows, columns=["label", "group"]).assign(broken=False)
    return table.assign(split=splitting.assign_splits(table, val, test, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(5))
def test_twenty_single_photographs_and_two_bursts_by_hand(seed):
    """Of 90 train is to have 63, val and test 13.5: so 40 and 30 go to train, the singles in turns to the others."""
    table = split_groups([1] * 20 + [30, 40], seed=seed)
    assert table["split"].value_counts().to_dict() == {"train": 70, "val": 10, "test": 10}


def test_three_bursts_by_hand():
    """Of 180 train is to have 126, val and test 27: 70 and 60 go to train, 50 to one of the others.

    A burst for the third would be of 60, more than twice its share.
    """
    others = set()
    for seed in range(20):
        counts = split_groups([50, 60, 70], [1] * 40, seed=seed).query("label == '0'")["split"].value_counts().to_dict()
        assert counts.pop("train") == 130
        others.update(counts.items())
    assert others == {("val", 50), ("test", 50)}


def test_however_large_the_groups_each_split_has_its_share():
    rng = np.random.default_rng(0)
    for number in range(300):
        sizes = np.minimum(rng.zipf(1.7, rng.integers(3, 40)), 50).tolist()
        val, test = rng.uniform(0.05, 0.3, 2)
        table = split_groups(sizes, [1] * 100, val=val, test=test, seed=number).query("label == '0'")
        assert len(table) == sum(sizes)
        groups = table.groupby("group")["split"].agg([set, "size"])
        assert {len(splits) for splits in groups["set"]} == {1}
        held, counts = groups.groupby(table.groupby("group")["split"].first())["size"], table["split"].value_counts()
        for split, share in {"train": 1 - val - test, "val": val, "test": test}.items():
            wanted = share * len(table)
            assert abs(counts.get(split, 0) - wanted) <= max(*sizes, 2), (sizes, split)
            if split not in counts:  # then no other can give it a group that is small enough
                assert min(held.min()[held.count() > 1]) > max(1, 2 * wanted), (sizes, split)


def test_a_class_of_three_has_one_in_each_split_and_train_has_one_whatever_its_share():
    for sizes, val, test in (([1, 1, 1], 0.15, 0.15), ([1, 1, 1], 0.01, 0.01), ([5, 3, 2], 0.45, 0.45)):
        table = split_groups(sizes, [1] * 100, val=val, test=test)
        assert set(table.query("label == '0'")["split"]) == {"train", "val", "test"}


def test_over_many_classes_neither_val_nor_test_is_favoured():
    """Of ten photographs seven are train's and one each of the others'; the tenth goes to either: a fair coin."""
    counts = split_groups(*[[1] * 10] * 400)["split"].value_counts()
    assert counts["train"] == 2800
    assert counts["val"] + counts["test"] == 1200
    assert abs(counts["val"] - 600) < 4 * 10  # the spread of 400 coins is 10


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    one, again, other = (split_groups([1] * 30, [2] * 20, seed=seed)["split"].tolist() for seed in (3, 3, 4))
    assert one == again != other


def test_links_between_images_make_groups_named_by_their_first_row():
    """Two chains, 0-3-5 and 1-4, given in any order, and 2 alone."""
    pairs = [(3, 5), (4, 1), (0, 3)]
    for order in (pairs, pairs[::-1]):
        assert splitting._connected_components(6, order).tolist() == [0, 1, 2, 0, 1, 0]


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
