"""Several networks at several sizes: their features are those of one network at one size, side by side.

But for the first test all networks are tiny: one convolution and batch normalization.
"""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny

from flowerlib import networks, training
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.evaluation import ActivationMaps
from flowerlib.networks import backbones, folding
from flowerlib.photos import classification, export
from flowerlib.training import features

NAMES, SIZES, WIDTHS = ("Six", "Nine"), (24, 60), (6, 9)
LITE0 = "EfficientNetLite0"


def small(width, image_size):
    pixels = keras.Input((image_size, image_size, 3))
    maps = keras.layers.Conv2D(width, 5, 6, "same", use_bias=False)(pixels)
    return keras.Model(pixels, keras.layers.BatchNormalization()(maps))


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        for name, width in zip(NAMES, WIDTHS, strict=True):
            row = replace(backbones.get(LITE0), name=name, build=partial(small, width), features=width)
            patch.setitem(backbones.BACKBONES, name, row)
        yield


@pytest.fixture(scope="module")
def extractor(small_networks):
    keras.utils.set_random_seed(0)
    return networks.feature_extractor(NAMES, SIZES, 24, "random")


def images(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3)).astype(np.float32)


def enlarged_by_hand(pixels, side):
    """Bilinear: of each new pixel the two old ones around its centre, by their distance; beyond an edge the last."""
    for _ in "yx":
        centres = np.clip((np.arange(side) + 0.5) * len(pixels) / side - 0.5, 0, len(pixels) - 1)
        before = np.floor(centres).astype(int)
        after, share = np.minimum(before + 1, len(pixels) - 1), (centres - before)[:, np.newaxis, np.newaxis]
        pixels = (pixels[before] * (1 - share) + pixels[after] * share).swapaxes(0, 1)
    return pixels.astype(np.float32)


def test_the_features_of_a_real_network_are_its_means_at_each_size_side_by_side():
    """The same weights at one size, a mean over its maps, and images that are enlarged by hand."""
    expected = []
    for size in SIZES:
        maps = networks.load(LITE0, size).predict_on_batch(
            np.stack([enlarged_by_hand(each, size) for each in images()])
        )
        expected.append(maps.mean(axis=(1, 2)))
    found = networks.feature_extractor((LITE0,), SIZES, 24).predict_on_batch(images())
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=2e-4)


def test_features_come_network_by_network_and_in_the_order_of_the_sizes(extractor):
    expected = []
    for name in NAMES:
        alone = extractor.get_layer(name)
        for size in SIZES:
            enlarged = np.stack([enlarged_by_hand(each, size) for each in images()])
            expected.append(np.asarray(alone(enlarged)).mean(axis=(1, 2)))
    assert [each.shape[1] for each in expected] == [6, 6, 9, 9]
    np.testing.assert_allclose(extractor.predict_on_batch(images()), np.concatenate(expected, axis=1), atol=1e-5)


def test_a_network_is_held_once_for_all_sizes_and_frozen(extractor):
    convolutions, norms = 5 * 5 * 3 * sum(WIDTHS), 4 * sum(WIDTHS)
    assert extractor.count_params() == convolutions + norms
    assert not extractor.trainable_weights


def test_folded_it_still_holds_each_network_once_and_gives_the_same(extractor):
    folded = folding.fold_batch_norm(extractor)
    assert [type(layer).__name__ for layer in folded.layers] == [type(layer).__name__ for layer in extractor.layers]
    assert folded.count_params() == (5 * 5 * 3 + 1) * sum(WIDTHS)
    np.testing.assert_allclose(folded.predict_on_batch(images()), extractor.predict_on_batch(images()), atol=1e-5)


def test_features_in_another_order_are_not_taken_from_the_cache(flowers):
    """The weights of the networks are the same ones each time."""
    keys = set()
    for names in (NAMES[:1], NAMES, NAMES[::-1]):
        for sizes in (SIZES, SIZES[::-1], (24,), (60,)):
            model = networks.feature_extractor(names, sizes, 24, "random")
            for name in names:
                model.get_layer(name).set_weights([np.ones(w.shape) for w in model.get_layer(name).get_weights()])
            keys.add(features._key(model, flowers, [1]))
    assert len(keys) == 12


@pytest.mark.parametrize(
    ("names", "sizes", "message"),
    [
        (("EfficientNetLite9",), (24,), r"`name` \(='EfficientNetLite9'\) must be one of DenseNet201, .*Lite2"),
        ((), (24,), r"`networks` \(=\(\)\) must be one or more, each of them once"),
        (NAMES[:1], (24, 24), r"`sizes` \(=\(24, 24\)\) must be one or more, each of them once"),
        (NAMES[:1], ("big",), r"`sizes` \(=\('big',\)\) must be whole numbers of pixels, such as \(192, 256\)"),
    ],
)
def test_what_cannot_be_built_is_refused(names, sizes, message):
    with pytest.raises(FlowersError, match=message):
        networks.feature_extractor(names, sizes, 24, "random")


@pytest.mark.usefixtures("in_bfloat16")
def test_in_mixed_precision_pixels_are_scaled_before_they_are_rounded():
    """254 and 255 are one number in bfloat16's 8 bits; (254 - 127) / 128 and (255 - 127) / 128 are two."""
    mixed = networks.feature_extractor(NAMES[:1], SIZES, 24, "random")
    model = keras.Sequential([keras.Input((24, 24, 3)), mixed])
    scaled = [model(np.full((1, 24, 24, 3), value, np.float32)) for value in (254, 255)]
    assert scaled[0].dtype == "float32"
    assert abs(np.asarray(scaled[0]) - np.asarray(scaled[1])).max() > 0


@pytest.fixture(scope="module")
def trained(flowers, extractor, tmp_path_factory):
    """The folder of a run, made as `00_quickstart` makes it, and its predictions for val."""
    place = tmp_path_factory.mktemp("several")
    config = training.TrainConfig(
        "several", "+".join(NAMES), 24, batch_size=8, epochs=20, networks=NAMES, sizes=SIZES, extract_batch_size=8
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place))
        run = training.Run(config, flowers, tiny.CPU)
        extracted = training.extract_features(run, extractor)
        run, head, history = training.fit_head(run, extracted, (1e-2, 1e-1), (0.1,))
        val, test = (training.predict_head(run, head, extracted[split]) for split in ("val", "test"))
        model = keras.Sequential([keras.Input(extractor.input_shape[1:]), extractor, *head.layers])
        training.save(run, model, history, val, test, extracted["train"])
    return place / "runs/several", val


@pytest.fixture(scope="module")
def classifier(trained):
    return classification.load(trained[0])


@pytest.fixture
def pixels(classifier, trained, photographs_of_val):
    return np.stack([classifier.pixels(photographs_of_val / f"{each}.jpg") for each in trained[1].ids])


def test_the_saved_model_predicts_from_pixels_what_the_head_did_from_features(trained, classifier, pixels):
    """But for the 11 bits of float16, in which features are kept."""
    val = trained[1].probabilities
    assert np.ptp(val, axis=0).max() > 0.2  # the photographs do differ
    np.testing.assert_allclose(classifier.probabilities(pixels), val, atol=2e-3)


def test_to_the_last_digits_it_is_the_extractor_and_then_the_head(classifier, extractor, pixels):
    pooled = extractor.predict_on_batch(pixels.astype(np.float32))
    standardized, last = classifier.model.layers[-2:]
    expected = np.asarray(last(standardized(pooled)))
    np.testing.assert_allclose(classifier.outputs(pixels), expected, atol=1e-4)


def test_the_record_tells_networks_sizes_and_weights(trained):
    record = json.loads((trained[0] / "run.json").read_text())
    assert record["backbone"] == "Six+Nine"
    assert (record["config"]["networks"], record["config"]["sizes"]) == ([*NAMES], [*SIZES])
    width, classes = 2 * sum(WIDTHS), record["data"]["num_classes"]
    standardization = 2 * width + 1  # mean, variance, count
    assert record["parameters"] == (5 * 5 * 3 + 4) * sum(WIDTHS) + standardization + (width + 1) * classes
    assert record["trainable_parameters"] == (width + 1) * classes
    assert record["layers"] == 2 * 2 + 2


@pytest.mark.parametrize("export_format", ["onnx", "litert", "savedmodel"])
def test_it_is_exported(trained, photographs_of_val, tmp_path, export_format):
    """`export` compares every probability with the model's, to 1e-4."""
    assert "on 9 images" in export.export(trained[0], export_format, [photographs_of_val], tmp_path / "out")


def test_the_mean_of_its_activation_maps_gives_its_probabilities(classifier, pixels):
    """At 60 px there are 10 x 10 places, at 24 px 4 x 4."""
    found, maps = ActivationMaps(classifier.model)(pixels)
    assert maps.shape == (len(pixels), 10, 10, 4)
    logits = maps.mean(axis=(1, 2))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.outputs(pixels), expected, atol=1e-4)
    assert found.shape[1] == classifier.gallery.features.shape[1]
