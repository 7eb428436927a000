"""The sample has the competition's layout, is reproducible, and overwrites nothing."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_records import SMALL, SPLITS, hashes, labels_of, read_records, shards_of

from flowerlib import data, evaluation, parallel, sample
from flowerlib.config import FlowersError
from flowerlib.sample import dataset, pictures


@pytest.mark.parametrize(("split", "files"), [("train", 8), ("val", 4), ("test", 4)])
def test_each_file_holds_as_many_records_as_its_name_says(small, split, files):
    paths = shards_of(small, split)
    assert len(paths) == files
    counts = []
    for number, path in enumerate(paths):
        match = re.fullmatch(r"(\d\d)-192x192-(\d+)\.tfrec", path.name)
        assert int(match[1]) == number
        counts.append(int(match[2]))
        assert len(read_records([path])) == counts[-1]
    assert max(counts) - min(counts) <= 1


def test_the_splits_together_hold_all_pictures(small):
    assert [path.name for path in small.glob("tfrecords*")] == ["tfrecords-jpeg-192x192"]
    assert sum(len(read_records(shards_of(small, split))) for split in SPLITS) == SMALL


def test_the_features_are_those_of_the_competition(small):
    from flowerlib.accelerator import tf

    for split in SPLITS:
        for record in tf.data.TFRecordDataset([str(path) for path in shards_of(small, split)]).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            assert set(features) == ({"image", "id"} if split == "test" else {"image", "id", "class"})


def test_every_image_is_a_square_rgb_jpeg_and_none_occurs_twice(small):
    images = [record["image"] for split in SPLITS for record in read_records(shards_of(small, split))]
    for image in map(Image.open, map(io.BytesIO, images)):
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (192, 192))
        assert np.asarray(image).std() > 10  # something is on it
    assert len(set(images)) == SMALL


def test_ids_are_nine_hex_digits_and_unique_over_all_splits(small):
    ids = [record["id"].decode() for split in SPLITS for record in read_records(shards_of(small, split))]
    assert all(re.fullmatch(r"[0-9a-f]{9}", name) for name in ids)
    assert len(set(ids)) == SMALL


def test_the_sample_submission_lists_the_test_ids_in_order(small):
    ids = [record["id"].decode() for record in read_records(shards_of(small, "test"))]
    assert (small / "sample_submission.csv").read_text() == "id,label\n" + "".join(f"{name},0\n" for name in ids)


@pytest.mark.parametrize("root", ["small", "default"])
def test_every_class_can_be_learnt_and_is_measured(root, request):
    root = request.getfixturevalue(root)
    names = json.loads((root / "classes.json").read_text())
    assert len(set(names)) == len(names) == (4 if root.parent.name.startswith("small") else 21)
    assert all("pixel" in name for name in names)
    train, val = Counter(labels_of(root, "train")), Counter(labels_of(root, "val"))
    assert set(train) == set(val) == set(range(len(names)))
    assert min(train.values()) >= 3


def test_the_classes_are_as_uneven_as_in_the_competition(default):
    train = np.array(sorted(Counter(labels_of(default, "train")).values()))
    assert 9 < train[-1] / train[0] < 16
    assert (train[1:] / train[:-1]).max() < 1.5  # few to many in even steps, not two groups


def test_the_default_sample_is_split_in_three_and_shuffled(default):
    split_labels = {split: labels_of(default, split) for split in SPLITS}
    counts = np.array([len(split_labels[split]) for split in SPLITS])
    np.testing.assert_allclose(counts / 1500, (0.6, 0.2, 0.2), atol=0.005)
    assert counts.sum() == 1500
    for split in ("train", "val"):
        assert (
            np.mean(np.diff(split_labels[split]) == 0) < 0.15
        )  # 0.076 is expected of a random order, 0.98 of a sorted one


@pytest.mark.parametrize("count", range(40, 3000, 97))
def test_every_number_of_images_is_met_exactly(count):
    plan = dataset._labels(count, sample.num_classes(count), np.random.default_rng(count))
    assert sum(map(len, plan.values())) == count
    for split, fewest in (("train", 3), ("val", 1), ("test", 1)):
        sizes = Counter(plan[split].tolist())
        assert len(sizes) == sample.num_classes(count)
        assert min(sizes.values()) >= fewest


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(small, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "num_cores", lambda: 3)
    sample.write(tmp_path / "again", num_images=SMALL, progress=False)
    assert hashes(tmp_path / "again") == hashes(small)
    monkeypatch.setattr(parallel, "num_cores", lambda: 1)
    sample.write(tmp_path / "alone", num_images=SMALL, progress=False)
    assert hashes(tmp_path / "alone") == hashes(small)


def test_another_seed_gives_other_bytes(small, tmp_path):
    sample.write(tmp_path / "other", num_images=SMALL, seed=1, progress=False)
    mine, other = (
        {record["image"] for split in SPLITS for record in read_records(shards_of(root, split))}
        for root in (small, tmp_path / "other")
    )
    assert len(mine | other) == 2 * SMALL


def test_the_dataset_is_found_and_passes_the_check(small):
    from flowerlib import data

    flowers = data.find(path=str(small))
    data.check(flowers, progress=False)
    assert sum(flowers.count(split) for split in SPLITS) == SMALL


def test_nothing_is_done_when_the_sample_is_there(small, monkeypatch):
    monkeypatch.setattr(pictures, "draw_jpeg", None)
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    sample.write(small, num_images=SMALL, progress=False)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_images": 61}, {"image_size": 224}])
def test_another_sample_is_never_overwritten(small, change):
    before = hashes(small)
    with pytest.raises(FlowersError, match=re.escape(f"`{small}` exists and is not this sample")):
        sample.write(small, **{"num_images": SMALL, "progress": False} | change)
    assert hashes(small) == before


def test_a_sample_of_an_older_version_is_not_taken_for_this_one(small, monkeypatch):
    monkeypatch.setattr(dataset, "VERSION", dataset.VERSION + 1)
    with pytest.raises(FlowersError, match="exists and is not this sample"):
        sample.write(small, num_images=SMALL, progress=False)


@pytest.mark.parametrize("foreign", ["notes.txt", "sample.json"])
def test_a_folder_with_other_things_is_left_alone(tmp_path, foreign):
    (tmp_path / foreign).write_text("{")
    with pytest.raises(FlowersError, match=re.escape(str(tmp_path))):
        sample.write(tmp_path, num_images=SMALL, progress=False)
    assert (tmp_path / foreign).read_text() == "{"


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "sample").write_text("mine")
    with pytest.raises(FlowersError, match="exists and is not this sample"):
        sample.write(tmp_path / "sample", num_images=SMALL, progress=False)
    assert (tmp_path / "sample").read_text() == "mine"


def test_half_a_sample_is_never_left(tmp_path, monkeypatch):
    write_shard, calls = dataset.write_shard, []

    def fail_at_the_third(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("disk full")
        write_shard(*arguments, **options)

    monkeypatch.setattr(dataset, "write_shard", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        sample.write(tmp_path / "sample", num_images=SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 300}, r"`image_size` \(=300\) must be one of \(192, 224, 331, 512\)"),
        ({"num_images": 39}, r"`num_images` \(=39\) must be at least 40"),
        ({"seed": -1}, r"`seed` \(=-1\) must be 0 or more"),
    ],
)
def test_an_argument_out_of_range_is_named(tmp_path, arguments, message):
    with pytest.raises(FlowersError, match=message):
        sample.write(tmp_path / "sample", progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(sample.__file__).parents[2],
    )


def test_the_import_loads_no_framework():
    code = "import sys, flowerlib.sample; print({'tensorflow', 'keras', 'jax'} & set(sys.modules))"
    assert run("-c", code).stdout == "set()\n"


def test_a_script_without_a_guard_may_call_it(tmp_path):
    """A notebook's .py has no `if __name__ == "__main__"`; the workers must not run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(sample.__file__).parents[2])!r})\n"
        "from flowerlib import sample\n"
        "print('started')\n"
        f"sample.write({str(tmp_path / 'sample')!r}, num_images=40)\n"
    )
    process = run(str(script))
    assert process.returncode == 0, process.stderr
    assert process.stdout == "started\n"
    assert "40/40" in process.stderr  # the progress bar, to its end


def test_a_few_images_of_val_and_test_are_near_duplicates_of_train_and_no_others_are(default):
    """What 01_eda finds: the second takes, up to 6 bits apart, and no pair between 7 and 9 bits."""
    flowers = data.find(path=str(default))
    images = evaluation.image_table(flowers, progress=False)
    pairs = evaluation.near_duplicates(images, 9)
    assert (pairs["distance"] <= 6).all()
    assert pairs["across"].all()
    assert set(pairs["classes"]) == {"same", "unknown"}
    found = evaluation.count_cross_split_duplicates(images, pairs)["images"]
    assert found.to_dict() == {"val": 12, "test": 12}  # one in 25 of 300
    assert pairs["mirrored"].sum() == 12
