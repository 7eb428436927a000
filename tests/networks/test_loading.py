"""Filling a small network from files in Keras 2's layout, which the tests write array by array, and then spoil."""

import h5py
import numpy as np
import pytest

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import loading

NAMES = {"conv": ["kernel", "bias"], "bn": ["gamma", "beta", "moving_mean", "moving_variance"]}


def network():
    """Conv -> BN -> ReLU, as a keras.Model."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 2, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    return keras.Model(inputs, keras.layers.ReLU(name="relu")(x), name="small")


@pytest.fixture
def arrays():
    """Known numbers for every layer; no two arrays are equal."""
    rng = np.random.default_rng(0)
    shapes = {"conv": [(2, 2, 3, 5), (5,)], "bn": [(5,)] * 4}
    return {layer: [rng.random(shape, "float32") for shape in of] for layer, of in shapes.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.h5"


def write(path, arrays, prefix="", inside="", parts=1):
    """Write as Keras 2 did: a group a layer, lists of names as attributes, `parts` of them where they are long."""
    names = ["input_1", *arrays, "relu"]
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        for part, some in enumerate(np.array_split(np.array([prefix + name for name in names], "S"), parts)):
            root.attrs["layer_names" if parts == 1 else f"layer_names{part}"] = some
        for layer in names:
            group = root.create_group(prefix + layer)
            weights = [f"{layer}/{kind}:0" for kind in NAMES.get(layer, ["kernel", "bias"])][
                : len(arrays.get(layer, []))
            ]
            group.attrs["weight_names"] = np.array(weights, "S")
            for name, array in zip(weights, arrays.get(layer, []), strict=True):
                group[name] = array


def filled(path, by_name=True):
    model = network()
    loading.load_strictly(model, loading.read_h5(path), by_name=by_name, source=path)
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def refusal(path, **options):
    with pytest.raises(FlowersError) as caught:
        filled(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", [{}, {"inside": "model_weights"}, {"parts": 4}])
@pytest.mark.parametrize("by_name", [True, False])
def test_every_array_arrives(path, arrays, layout, by_name):
    write(path, arrays, **layout)
    assert_equal(filled(path, by_name), arrays)


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for layer in expected:
        assert len(found[layer]) == len(expected[layer])
        for ours, theirs in zip(found[layer], expected[layer], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_long_list_of_names_keeps_its_order(path):
    layers = {f"dense_{number}": [np.full((1,), number, "float32")] for number in range(30)}
    write(path, layers, parts=12)
    assert [array.item() for _, (array,) in loading.read_h5(path)] == list(range(30))


def test_keras_reads_the_same_file_the_same_way(path, arrays):
    write(path, arrays)
    theirs = network()
    theirs.load_weights(path)
    assert_equal(filled(path), {layer.name: layer.get_weights() for layer in theirs.layers if layer.weights})


def test_by_order_names_do_not_matter(path, arrays):
    write(path, arrays, prefix="old/")
    assert_equal(filled(path, by_name=False), arrays)
    assert "old/conv" in refusal(path, by_name=True)


def test_only_the_classifier_may_stay_unused(path, arrays):
    head = [np.zeros((5, 1000), "float32"), np.zeros(1000, "float32")]
    write(path, arrays | {"predictions": head})
    assert_equal(filled(path), arrays)
    for by_name in True, False:
        write(path, arrays | {"more": head})
        assert "more" in refusal(path, by_name=by_name)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_missing_layer_is_named(path, arrays, by_name):
    write(path, {"conv": arrays["conv"]})
    assert "bn" in refusal(path, by_name=by_name)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_missing_array_is_named(path, arrays, by_name):
    write(path, arrays | {"bn": arrays["bn"][:3]})
    assert "bn" in refusal(path, by_name=by_name)


def test_an_array_listed_but_absent_is_named(path, arrays):
    write(path, arrays)
    with h5py.File(path, "a") as file:
        del file["bn/bn/beta:0"]
    assert "layer /bn lacks bn/beta:0" in refusal(path)


def test_a_wrong_shape_is_named(path, arrays):
    arrays["conv"][0] = arrays["conv"][0].swapaxes(2, 3)
    write(path, arrays)
    message = refusal(path)
    assert "conv" in message
    assert "(2, 2, 5, 3)" in message
    assert "(2, 2, 3, 5)" in message


def test_what_is_no_whole_file_is_refused(path, arrays):
    write(path, arrays)
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a whole Keras weights file" in refusal(path)
    path.write_bytes(b"<html>Not found</html>")
    assert "not a whole Keras weights file" in refusal(path)
    h5py.File(path, "w").close()
    assert "not a whole Keras weights file" in refusal(path)
