"""What a notebook starts with, and what it ends with: test-time augmentation against the network's own layers."""

from dataclasses import replace

import jupytext
import numpy as np
import pytest
import tiny
from tiny import CPU, TPU

from flowerlib import augmentation, data, figures, predictions, training
from flowerlib.accelerator import keras
from flowerlib.augmentation import MIXES, with_probability
from flowerlib.config import FlowersError
from flowerlib.networks import backbones
from flowerlib.series.notebooks import NOTEBOOKS
from flowerlib.training.run import SMOKE_TEST_IMAGES, _with_fitting_batch

PARAMETERS = {"NAME": "10_tiny", "BACKBONE": "EfficientNetLite0", "IMAGE_SIZE": 16, "BATCH_SIZE": 8, "EPOCHS": 3}
CONFIG = training.TrainConfig(**{name.lower(): value for name, value in PARAMETERS.items()})


@pytest.fixture(autouse=True)
def no_watermark_is_left():
    yield
    figures.watermark(None)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_start_finds_and_checks_the_data_and_prints_them_with_the_device(flowers, monkeypatch, capsys):
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    run = training.start(PARAMETERS | {"SHRINK": False})
    assert (run.config, run.flowers, run.classes) == (CONFIG, flowers, flowers.classes)
    assert (run.device.kind, run.device.num_replicas) == ("cpu", 1)
    assert capsys.readouterr().out == f"{run.device}\n{flowers}\n"
    assert run.weights == "pretrained"
    assert (run.steps_per_epoch, run.num_images) == (23 // 8, 3 * 23)
    assert texts(figures.learning_rates(np.ones(4), 2)) == []


def test_start_makes_the_same_random_numbers_again(flowers, monkeypatch):
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    drawn = []
    for seed in (3, 3, 4):
        training.start(PARAMETERS | {"SHRINK": False, "SEED": seed})
        drawn.append(float(keras.random.uniform(())))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_smoke_test_takes_the_smallest_images_a_few_of_them_and_marks_its_figures(
    records, write_flowers, tmp_path, monkeypatch, capsys
):
    records["train"] *= 4  # 92 images
    for size in (24, 100):
        root = write_flowers(tmp_path, records, size)
    monkeypatch.setenv("FLOWERS_DATA", root)
    monkeypatch.setattr(data, "check", lambda flowers: None)  # those of 100 px are in truth of 24, four times the same
    run = training.start(PARAMETERS | {"IMAGE_SIZE": 512})
    assert (run.config.smoke_test, run.flowers.image_size, run.config.image_size) == (True, 24, 72)
    assert [run.flowers.count(split) for split in data.SPLITS] == [SMOKE_TEST_IMAGES, 9, 7]
    assert run.steps_per_epoch == 2
    assert run.weights == backbones.available_weights("EfficientNetLite0")
    assert texts(figures.learning_rates(np.ones(4), 2)) == ["SMOKE TEST"]
    assert capsys.readouterr().out.startswith("SMOKE TEST on CPU")


def test_start_takes_the_nearest_larger_size_of_stored_images(flowers, monkeypatch):
    """A full run needs no dataset of the notebook's own image size: what there is, is resized."""
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    run = training.start(PARAMETERS | {"SHRINK": False, "IMAGE_SIZE": 32})
    assert (run.flowers.image_size, run.config.image_size) == (24, 32)
    images, _ = next(iter(training.train_batches(run)(start=0)))
    assert images.shape == (8, 32, 32, 3)


def test_03_takes_another_small_network_too(flowers, monkeypatch):
    """Its own cells up to the model, then two steps: the twelve convolutions of stem, stages 1 and 2 are frozen."""
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    scope = {}
    for cell in jupytext.read(NOTEBOOKS / "03_finetune.py").cells:
        if cell.cell_type == "code" and "model" not in scope:
            exec(cell.source, scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope["BACKBONE"] = "EfficientNetLite2"
    run, model = scope["run"], scope["model"]
    assert (scope["backbone"].name, run.weights) == ("EfficientNetLite2", "pretrained")
    before = model.get_weights()
    for images, labels in scope["train"](start=0).take(2):
        assert np.isfinite(model.train_on_batch(images, labels)).all()
    changed = [not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)]
    frozen = 12 * 2  # a kernel and, as batch normalization is folded into it, a bias
    assert changed == [False] * frozen + [True] * (len(changed) - frozen)


def test_start_refuses_a_damaged_record(records, write_flowers, tmp_path, monkeypatch):
    records["val"][0][3].pop("class")
    monkeypatch.setenv("FLOWERS_DATA", write_flowers(tmp_path, records))
    with pytest.raises(FlowersError, match="record 3: has no feature 'class'"):
        training.start(PARAMETERS | {"SHRINK": False})


@pytest.mark.parametrize(
    ("device", "given", "taken"),
    [(CPU, 18, 18), (CPU, 19, 18), (CPU, 128, 18), (TPU, 16, 16), (TPU, 24, 16), (TPU, 1024, 16)],
)
def test_a_batch_is_at_most_four_fifths_of_the_images_in_whole_shares(flowers, capsys, device, given, taken):
    """23 images: four fifths are 18, of which eight replicas share 16."""
    run = training.Run(replace(CONFIG, batch_size=given), flowers, device)
    assert _with_fitting_batch(run) == run.with_config(batch_size=taken)
    told = f"The batch size is {taken}, not {given}: there are only 23 training images.\n"
    assert capsys.readouterr().out == ("" if given == taken else told)


def test_fewer_images_than_replicas_are_an_error(flowers):
    """Of nine images four fifths are seven."""
    run = training.Run(CONFIG, replace(flowers, limit=9), TPU)
    with pytest.raises(FlowersError, match="9 training images are too few for 8 replicas; add photographs"):
        _with_fitting_batch(run)
    assert _with_fitting_batch(replace(run, flowers=replace(flowers, limit=10))).config.batch_size == 8


def test_train_batches_are_those_of_the_configuration(flowers):
    config = replace(CONFIG, mix="cutmix", mix_probability=0.5, seed=7)
    train = training.train_batches(training.Run(config, flowers, CPU), augmentation.IDENTITY)
    mix = with_probability(MIXES["cutmix"], 0.5)
    options = {"image_size": 16, "augment": augmentation.IDENTITY, "mix": mix, "seed": 7}
    for start in (0, 3):
        ours, theirs = train(start=start), data.train_batches(flowers, 8, start=start, **options)
        for mine, expected in zip(ours.take(4), theirs.take(4), strict=True):
            np.testing.assert_array_equal(mine[0], expected[0])
            np.testing.assert_array_equal(mine[1], expected[1])


@pytest.fixture(scope="module")
def normalizing():
    """A network for images of any size whose batch normalization matters."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization()
    pixels = keras.Input((None, None, 3))
    maps = norm(keras.layers.Conv2D(8, 3)(keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)))
    backbone = keras.Model(pixels, keras.layers.ReLU()(maps))
    pooling, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, "softmax")
    model = keras.Sequential([keras.Input((None, None, 3)), backbone, pooling, head])
    rng = np.random.default_rng(0)
    norm.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in norm.get_weights()])
    head.set_weights([3 * weight for weight in head.get_weights()])
    return model


@pytest.mark.parametrize(
    ("sizes", "used", "flip"),
    [
        ({}, (16,), False),
        ({"eval_size": 20}, (20,), True),
        ({"eval_size": 20, "tta_sizes": (16, 24, 32)}, (16, 24, 32), False),
        ({"tta_sizes": (16, 32)}, (16, 32), True),
    ],
)
def test_predictions_are_the_mean_over_sizes_and_flips(normalizing, flowers, sizes, used, flip):
    run = training.Run(replace(CONFIG, tta_flip=flip, **sizes), flowers, CPU)
    val, test = training.predict(run, normalizing)
    for split, predicted in (("val", val), ("test", test)):
        views = []
        for size in used:
            images = np.concatenate([each for each, *_ in data.eval_batches(flowers, split, 4, image_size=size)])
            views += [images, images[:, :, ::-1]] if flip else [images]
        expected = np.mean([np.asarray(normalizing(view)) for view in views], axis=0)
        np.testing.assert_allclose(predicted.probabilities, expected, atol=1e-4)
        labels, ids = data.labels_and_ids(flowers, split)
        np.testing.assert_array_equal(predicted.labels, labels)
        np.testing.assert_array_equal(predicted.ids, ids)
    assert len(used) == 1 or np.ptp([np.asarray(normalizing(view)) for view in views], axis=0).max() > 3e-3


def test_a_smoke_test_predicts_with_the_network_itself(normalizing, flowers):
    """Bit for bit what its validation computes; a folded copy, which takes as much memory again, rounds otherwise."""
    run = training.Run(replace(CONFIG, smoke_test=True), flowers, CPU)
    [val] = training.predict(run, normalizing, ["val"])
    own = predictions.predict(normalizing, training.eval_batches(run, "val"), run.config.eval_batch_size)
    np.testing.assert_array_equal(val.probabilities, own.probabilities)
    [folded] = training.predict(run.with_config(smoke_test=False), normalizing, ["val"])
    assert not np.array_equal(folded.probabilities, own.probabilities)


def test_only_the_splits_that_are_named_are_predicted(flowers):
    [train] = training.predict(training.Run(CONFIG, flowers, CPU), tiny.network(4, image_size=None), ["train"])
    assert train.labels.tolist() == data.labels_and_ids(flowers, "train")[0].tolist()


def test_views_of_different_sizes_have_different_shapes_on_eight_devices_too(flowers):
    """A partial batch is padded at every size."""
    assert "same" in tiny.run_on_8_devices("jax", TTA_ON_8, flowers.root)


TTA_ON_8 = """
import numpy as np
import tiny
from flowerlib import data, training

flowers = data.find(path=arguments[0])
config = training.TrainConfig("tiny", "none", 24, batch_size=8, epochs=2, tta_sizes=(16, 24), tta_flip=True)
with device.scope():
    model = tiny.network(4, image_size=None)
[val] = training.predict(training.Run(config, flowers, device), model, ["val"])
views = []
for size in (16, 24):
    images = np.concatenate([each for each, *_ in data.eval_batches(flowers, "val", 9, image_size=size)])
    views += [images, images[:, :, ::-1]]
expected = np.mean([np.asarray(model(view)) for view in views], axis=0)
np.testing.assert_allclose(val.probabilities, expected, atol=1e-4)
print("the same")
"""
