import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from flowerlib import augmentation, data, training
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.training import feature_file, features


@pytest.fixture(scope="module")
def feature_extractor():
    return tiny.feature_extractor()


@pytest.fixture(scope="module")
def extracted(feature_extractor, flowers, tmp_path_factory):
    return features.extract(
        feature_extractor, flowers, "val", 4, num_augmented=2, folder=tmp_path_factory.mktemp("kept")
    )


def pixels(flowers, split="val"):
    return np.concatenate([images for images, _, _ in data.eval_batches(flowers, split, 1)])


def test_features_are_those_of_the_image_its_mirror_image_and_augmented_views(feature_extractor, extracted, flowers):
    images = pixels(flowers)
    assert (extracted.values.shape, extracted.values.dtype) == ((4, 9, 6), np.float16)
    augment = augmentation.Augmentation()
    batches = [images[start : start + 4] for start in range(0, 9, 4)]
    augmented = [
        np.concatenate([augment(batch, [view, number]) for number, batch in enumerate(batches)]) for view in (1, 2)
    ]
    for view, batch in zip(extracted.values, (images, images[:, :, ::-1], *augmented), strict=True):
        one_by_one = np.concatenate([np.asarray(feature_extractor(image[None])) for image in batch])
        np.testing.assert_allclose(view, one_by_one, rtol=2**-10, atol=1e-3)
    _, labels, ids = next(iter(data.eval_batches(flowers, "val", 9)))
    np.testing.assert_array_equal(extracted.labels, labels)
    assert extracted.ids.tolist() == [record_id.decode() for record_id in ids.numpy()]


def test_what_was_computed_is_read_again_and_not_mistaken_for_anything_else(
    feature_extractor, flowers, tmp_path, monkeypatch
):
    first = features.extract(feature_extractor, flowers, "val", 4, folder=tmp_path)
    other = keras.models.clone_model(feature_extractor)
    other.set_weights([weight + 1 for weight in feature_extractor.get_weights()])
    brighter = keras.Sequential(
        [keras.Input((24, 24, 3)), keras.layers.Rescaling(1.1), *feature_extractor.layers]
    )  # the same weights
    for changed in (
        features.extract(brighter, flowers, "val", 4, folder=tmp_path),
        features.extract(other, flowers, "val", 4, folder=tmp_path),
        features.extract(feature_extractor, flowers, "val", 4, flip=False, folder=tmp_path),
        features.extract(feature_extractor, replace(flowers, limit=9), "val", 4, folder=tmp_path),
        features.extract(feature_extractor, replace(flowers, fingerprint="another"), "val", 4, folder=tmp_path),
        features.extract(feature_extractor, flowers, "val", 4, num_augmented=1, folder=tmp_path),
        features.extract(
            feature_extractor, flowers, "val", 4, num_augmented=1, augment=augmentation.IDENTITY, folder=tmp_path
        ),
    ):
        assert changed.values.filename != first.values.filename
    assert len(list(tmp_path.glob("*/val.npy"))) == 8
    assert len(list(tmp_path.rglob(".*"))) == 0
    monkeypatch.setattr(features.predictions, "iterate_outputs", None)
    again = features.extract(feature_extractor, flowers, "val", 4, folder=tmp_path)
    np.testing.assert_array_equal(again.values, first.values)


def test_features_that_float16_cannot_hold_are_an_error(feature_extractor, flowers, tmp_path):
    large = keras.models.clone_model(feature_extractor)
    large.set_weights([1e4 * weight for weight in feature_extractor.get_weights()])
    with pytest.raises(FlowersError, match="a feature of val is not a number, or larger than the 65,504 of float16"):
        features.extract(large, flowers, "val", 4, folder=tmp_path)
    assert not list(tmp_path.glob("*/val.npy"))


STOPPED = """
import os, signal, sys
from pathlib import Path
import tiny
from flowerlib import data
from flowerlib.training import feature_file, features
folder, root, log, limit = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
keep = feature_file.PartialFile.write_block
def kept(half, view, start, block):
    with log.open("a") as file:
        file.write(f"{block.tobytes().hex()}\\n")
    if limit and len(log.read_text().splitlines()) == limit + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    keep(half, view, start, block)
feature_file.PartialFile.write_block = kept
flowers, folder = data.find(path=root), Path(folder)
features.extract(tiny.feature_extractor(), flowers, "train", 2, num_augmented=2, folder=folder, progress=False)
"""


def test_killed_and_called_again_it_computes_nothing_twice_and_leaves_the_same_bytes(flowers, tmp_path):
    def run(folder, limit):
        log = tmp_path / f"{folder}.log"
        arguments = [str(tmp_path / folder), flowers.root, str(log), str(limit)]
        environment = os.environ | {"PYTHONPATH": tiny.PYTHONPATH}
        code = subprocess.run([sys.executable, "-c", STOPPED, *arguments], env=environment).returncode
        return code, log.read_text().splitlines()

    code, whole = run("undisturbed", 0)
    assert code == 0
    stop = round(0.6 * len(whole))  # as many are kept; the next is lost: it was computed but not written
    code, _ = run("stopped", stop)
    assert code == -signal.SIGKILL
    code, calls = run("stopped", 0)
    assert code == 0
    assert calls == [*whole[: stop + 1], *whole[stop:]]
    [one], [other] = (list((tmp_path / folder).glob("*/train.npy")) for folder in ("undisturbed", "stopped"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("damage", ["flipped", "cut short", "of an earlier version, without checksum"])
def test_a_damaged_file_is_named_set_aside_and_computed_again(feature_extractor, flowers, tmp_path, capsys, damage):
    [path] = [Path(features.extract(feature_extractor, flowers, "val", 4, folder=tmp_path).values.filename)]
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 0x40]) + whole[-6:])
    elif damage == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.with_name("val.npy.sha256").unlink()
    damaged = path.read_bytes()
    again = features.extract(feature_extractor, flowers, "val", 4, folder=tmp_path)
    assert path.read_bytes() == whole
    assert np.isfinite(again.values).all()
    printed = f"`{path}` is damaged, or has no checksum: set aside as `.aside-1.val.npy`, and made again.\n"
    assert capsys.readouterr().out == printed
    assert path.with_name(".aside-1.val.npy").read_bytes() == damaged


@pytest.mark.parametrize("damage", ["flipped", "cut short", "no half", "an empty line", "no number"])
def test_a_damaged_partial_file_is_resumed_from_where_it_is_sound(
    feature_extractor, flowers, tmp_path, monkeypatch, damage
):
    whole = Path(
        features.extract(feature_extractor, flowers, "train", 4, folder=tmp_path / "whole").values.filename
    ).read_bytes()
    keep, kept = feature_file.PartialFile.write_block, []

    def stop(half, view, start, block):
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.append(start)
        keep(half, view, start, block)

    monkeypatch.setattr(feature_file.PartialFile, "write_block", stop)
    with pytest.raises(KeyboardInterrupt):
        features.extract(feature_extractor, flowers, "train", 4, folder=tmp_path / "half")
    [half] = (tmp_path / "half").glob("*/.train.npy")
    content = bytearray(half.read_bytes())
    if damage == "flipped":
        content[128 + (4 * 2 + 1) * 6 * 2] ^= 0x10  # of image 9, in the third batch of four
        half.write_bytes(content)
    elif damage == "cut short":
        half.write_bytes(content[: 128 + 8 * 6 * 2])
    elif damage == "no half":
        half.unlink()
    else:
        journal = half.with_name(".train.npy.journal")
        first, second, *rest = journal.read_text().splitlines()
        second = "" if damage == "an empty line" else "0 4 1 4 \0"
        journal.write_text("\n".join([first, second, *rest]))
    kept.clear()
    monkeypatch.setattr(feature_file.PartialFile, "write_block", lambda *each: kept.append(each[2]) or keep(*each))
    again = features.extract(feature_extractor, flowers, "train", 4, folder=tmp_path / "half")
    begins = {"flipped": 8, "an empty line": 4, "no number": 4}.get(damage, 0)
    assert kept == list(range(begins, 23, 4))
    assert Path(again.values.filename).read_bytes() == whole
    assert {path.name for path in half.parent.iterdir()} == {"train.npy", "train.npy.sha256"}


AT_ONCE = """
import sys, time
from pathlib import Path
import tiny
from flowerlib import data
from flowerlib.training import feature_file, features
keep = feature_file.PartialFile.write_block
def slowly(half, view, start, block):
    time.sleep(0.3)
    print("computed", start, flush=True)
    keep(half, view, start, block)
feature_file.PartialFile.write_block = slowly
folder, flowers = Path(sys.argv[1]), data.find(path=sys.argv[2])
extracted = features.extract(tiny.feature_extractor(), flowers, "train", 8, folder=folder, progress=False)
print(abs(extracted.values).sum(dtype=float))
"""


def test_of_two_processes_one_computes_and_the_other_waits_for_it(flowers, tmp_path):
    environment = os.environ | {"PYTHONPATH": tiny.PYTHONPATH}
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path), flowers.root]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    one, other = sorted(printed, key=len, reverse=True)
    assert one[:-1] == ["computed 0", "computed 8", "computed 16"]
    assert float(one[-1]) > 0
    assert other[-1] == one[-1]
    first = both[printed.index(one)].pid
    assert other[:-1] in ([f"Process {first} makes `{next(tmp_path.rglob('train.npy'))}`; waiting for it."], [])


def test_without_room_nothing_is_computed(feature_extractor, flowers, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(features.predictions, "iterate_outputs", pytest.fail)
    with pytest.raises(FlowersError, match=r"no room for features: they take 0 MB in `.*`; make room there, or name"):
        features.extract(feature_extractor, flowers, "val", 4, folder=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def numbered(count=11, views=2):
    """Feature 0 is the image's number, feature 1 the view's."""
    image, view = np.meshgrid(np.arange(count), np.arange(views))
    return features.Features(
        np.stack([image, view], axis=2).astype("float16"), np.arange(count) % 3, np.arange(count).astype(str)
    )


def test_every_image_comes_once_before_any_comes_twice_and_both_views_come():
    batches = features.train_batches(numbered(), 4, 3, seed=1).take(22)  # eight epochs of eleven
    values, labels = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True))
    for epoch in values[:, 0].reshape(8, 11):
        assert sorted(epoch) == list(range(11))
    np.testing.assert_array_equal(labels.argmax(axis=1), values[:, 0] % 3)
    assert {tuple(value) for value in values} == {(image, view) for image in range(11) for view in range(2)}
    assert {len(set(views)) for views in values[:, 1].reshape(22, 4)} == {1, 2}  # drawn for each image, not each batch


def test_a_seed_gives_the_same_batches_again():
    first, again, other = (
        np.concatenate([values for values, _ in features.train_batches(numbered(), 4, 3, seed=seed).take(9)])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_evaluation_is_in_file_order_and_whole():
    values, labels, ids = (
        np.concatenate(part) for part in zip(*features.eval_batches(numbered(), 4).as_numpy_iterator(), strict=True)
    )
    np.testing.assert_array_equal(values, numbered().values[0])
    np.testing.assert_array_equal(labels, numbered().labels)
    assert [record_id.decode() for record_id in ids] == numbered().ids.tolist()


def test_a_head_on_features_predicts_what_the_whole_network_predicts(flowers, tmp_path):
    whole = tiny.network(4)
    feature_extractor, head = keras.Sequential([keras.Input((24, 24, 3)), *whole.layers[:-1]]), whole.layers[-1]
    extracted = features.extract(feature_extractor, flowers, "val", 4, num_augmented=1, folder=tmp_path)
    images = np.concatenate([images for images, _, _ in data.eval_batches(flowers, "val", 9)])
    expected = (np.asarray(whole(images)) + np.asarray(whole(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(features.predict(head, extracted, 4).probabilities, expected, atol=1e-3)


def test_the_order_is_the_same_for_iterators_that_take_turns():
    """As Keras asks: it looks at a first batch, and begins again while the first iterator still works ahead."""
    batches = features.train_batches(numbered(), 4, 3, seed=3)
    first = iter(batches)
    ahead = [next(first)[0].numpy() for _ in range(12)]  # beyond four epochs of eleven images
    for again, before in zip(batches.take(12), ahead, strict=True):
        np.testing.assert_array_equal(again[0], before)


def test_without_the_mirror_image_there_is_a_view_less_and_the_others_are_the_same(
    feature_extractor, extracted, flowers, tmp_path
):
    once = features.extract(feature_extractor, flowers, "val", 4, flip=False, num_augmented=2, folder=tmp_path)
    assert (once.num_original, extracted.num_original) == (1, 2)
    np.testing.assert_array_equal(once.values, extracted.values[[0, 2, 3]])
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="softmax")])
    expected = np.asarray(head(once.values[0].astype("float32")))
    np.testing.assert_allclose(features.predict(head, once, 4).probabilities, expected, atol=1e-6)


def test_the_holdout_is_every_fourth_image_with_all_its_views(extracted):
    rest, holdout = features.split_holdout(extracted, every=4)
    assert holdout.ids.tolist() == extracted.ids[[0, 4, 8]].tolist()
    assert rest.ids.tolist() == extracted.ids[[1, 2, 3, 5, 6, 7]].tolist()
    np.testing.assert_array_equal(holdout.values, extracted.values[:, [0, 4, 8]])
    np.testing.assert_array_equal(rest.labels, extracted.labels[[1, 2, 3, 5, 6, 7]])
    assert holdout.num_original == rest.num_original == 2


@pytest.fixture
def run(flowers):
    config = training.TrainConfig("tiny", "none", 24, 8, 2, num_augmented_views=3, extract_batch_size=4)
    return training.Run(config, flowers, tiny.CPU)


def test_each_split_is_extracted_and_train_with_augmented_views(feature_extractor, run, extracted):
    found = training.extract_features(run, feature_extractor)
    assert {split: each.values.shape for split, each in found.items()} == {
        "train": (5, 23, 6),
        "val": (2, 9, 6),
        "test": (2, 7, 6),
    }
    np.testing.assert_array_equal(found["val"].values, extracted.values[:2])
    augmented = features.extract(feature_extractor, run.flowers, "train", 4, num_augmented=3)
    assert augmented.values.filename == found["train"].values.filename  # the same key: batches of four
    for split, each in found.items():
        labels, ids = data.labels_and_ids(run.flowers, split)
        np.testing.assert_array_equal(each.labels, labels)
        np.testing.assert_array_equal(each.ids, ids)
        assert each.num_original == 2


def test_a_smoke_test_extracts_the_features_of_a_few_original_images_alone(feature_extractor, run, extracted):
    flowers = replace(run.flowers, limit=5)
    smoke = replace(run, flowers=flowers).with_config(smoke_test=True, num_augmented_views=0)
    found = training.extract_features(smoke, feature_extractor)
    assert {split: each.values.shape for split, each in found.items()} == dict.fromkeys(data.SPLITS, (1, 5, 6))
    np.testing.assert_array_equal(found["val"].values[0], extracted.values[0, :5])
    assert {each.num_original for each in found.values()} == {1}
    assert found["val"].ids.tolist() == extracted.ids[:5].tolist()
    again = training.extract_features(smoke, feature_extractor)  # from the cache
    assert again["train"].ids.tolist() == found["train"].ids.tolist()
