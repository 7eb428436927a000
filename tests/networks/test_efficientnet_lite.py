"""EfficientNet-Lite0, 1 and 2 against the reference implementation, and their reader against files that mean harm.

Expected numbers: `efficientnet-lite-pytorch` 0.1.0 with torch 2.13 and the same weights, on `picture(size)`.
"""

import hashlib
import math
import os
import pickle

import numpy as np
import pytest

from flowerlib import data
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import backbones, efficientnet_lite, loading, weights

FLOWERS = os.environ.get("FLOWERS_DATA")
FILES = [weights.find(backbones.BACKBONES[f"EfficientNetLite{number}"].weights) for number in range(3)]
REFERENCE = {
    (0, 192): {
        "features": {(0, 0, 423): 2.91107, (0, 0, 755): 1.60758, (2, 3, 979): 4.62204, (5, 5, 36): 1.25732},
        "mean": 0.18859216,
        "logits": {506: 7.766106, 488: 7.645597, 616: 6.864477, 673: 5.845504, 723: 5.504303},
    },
    (0, 224): {
        "features": {(0, 0, 423): 3.37851, (0, 0, 755): 2.1504, (2, 3, 13): 3.52896, (6, 6, 327): 2.00159},
        "mean": 0.16914347,
        "logits": {506: 8.109696, 488: 6.621211, 616: 5.680758, 723: 5.449508, 673: 5.042141},
    },
    (1, 192): {
        "features": {(0, 0, 605): 3.043, (0, 0, 759): 0.92795, (2, 3, 1136): 3.99508, (5, 5, 918): 1.50487},
        "mean": 0.25533748,
        "logits": {506: 9.155338, 646: 8.417591, 644: 7.237524, 673: 5.627016, 549: 5.349998},
    },
    (1, 240): {
        "features": {(0, 0, 934): 4.70328, (0, 0, 1147): 0.79265, (2, 3, 1264): 5.63315, (7, 7, 595): 2.12795},
        "mean": 0.19752904,
        "logits": {506: 6.603117, 644: 5.33072, 696: 4.995886, 723: 4.907073, 646: 4.788377},
    },
    (2, 192): {
        "features": {(0, 0, 1084): 2.63459, (0, 0, 681): 1.0143, (2, 3, 1157): 3.99711, (5, 5, 39): 1.38767},
        "mean": 0.31526785,
        "logits": {506: 11.812654, 723: 10.055087, 616: 8.682854, 971: 7.021452, 767: 6.777592},
    },
    (2, 260): {
        "features": {(0, 0, 966): 4.09329, (0, 0, 127): 0.84434, (2, 3, 372): 5.32934, (8, 8, 589): 1.42575},
        "mean": 0.20214066,
        "logits": {506: 6.142888, 767: 5.545209, 723: 5.298651, 714: 5.057609, 902: 4.819108},
    },
}
DAISY = 985  # of the 1000 ImageNet classes


def picture(size):
    """A coloured pinwheel, the same in every version of every library."""
    y, x, channel = np.meshgrid(np.arange(size) - size / 2, np.arange(size) - size / 2, np.arange(3), indexing="ij")
    phase = np.hypot(y, x) / (9 + 4 * channel) + 5 * np.arctan2(y, x)
    return np.round(127.5 + 127.5 * np.cos(phase)).astype("float32")


def logits(number, features):
    """Feature maps (B, h, w, 1280) -> the ImageNet logits (B, 1000) of the classifier in the file."""
    kernel, bias = dict(efficientnet_lite.read(FILES[number]))["predictions"]
    return np.mean(features, (1, 2)) @ kernel + bias


@pytest.mark.parametrize(("number", "size"), REFERENCE)
def test_equals_the_reference_implementation(number, size):
    expected = REFERENCE[number, size]
    maps = backbones.load(f"EfficientNetLite{number}", size).predict_on_batch(picture(size)[None])
    side = math.ceil(size / 32)
    assert maps.shape == (1, side, side, 1280)
    found = [maps[0][place] for place in expected["features"]]
    np.testing.assert_allclose(found, list(expected["features"].values()), atol=1e-4)
    assert maps.mean(dtype="float64") == pytest.approx(expected["mean"], abs=1e-6)
    found = logits(number, maps)[0]
    top = np.argsort(found)[:-6:-1]
    assert top.tolist() == list(expected["logits"])
    np.testing.assert_allclose(found[top], list(expected["logits"].values()), atol=1e-4)


@pytest.mark.skipif(not FLOWERS, reason="FLOWERS_DATA is not set: no daisies to classify")
@pytest.mark.parametrize("number", range(3))
def test_every_oxeye_daisy_is_a_daisy(number):
    flowers = data.find(192, FLOWERS)
    daisies = []
    for split in ("train", "val"):
        for images, labels, _ in data.eval_batches(flowers, split, 64).as_numpy_iterator():
            daisies += [image for image, label in zip(images, labels, strict=True) if flowers.classes[label] == "daisy"]
    if len(daisies) != 34:
        pytest.skip(f"FLOWERS_DATA has {len(daisies)} labelled daisies, not the 34 (of 49) of Oxford Flowers-102")
    maps = backbones.load(f"EfficientNetLite{number}", 192).predict_on_batch(np.stack(daisies))
    assert logits(number, maps).argmax(-1).tolist() == [DAISY] * 34


# Keras 3.15 asks the backend for an array in the way of NumPy 1.
def test_saves_and_loads_as_plain_keras(tmp_path):
    backbone = backbones.load("EfficientNetLite0", 64)
    backbone.trainable = False
    model = keras.Sequential([backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    expected = model.predict_on_batch(picture(64)[None])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(picture(64)[None]), expected)
    assert len(loaded.trainable_weights) == 2


@pytest.mark.parametrize(("number", "digest"), [(0, "57934424"), (1, "77cc7160"), (2, "9656183e")])
def test_the_file_is_the_one_that_its_name_says(number, digest):
    assert FILES[number].name == f"efficientnet-lite{number}-{digest}.pth"
    assert hashlib.sha256(FILES[number].read_bytes()).hexdigest()[:8] == digest  # torch.hub ends a name in its sha256


@pytest.mark.parametrize(
    ("number", "arrays", "trainable"), [(0, 296, 4_652_008), (1, 386, 5_416_680), (2, 386, 6_092_072)]
)
def test_the_classifier_is_that_of_the_file(number, arrays, trainable):
    tensors = efficientnet_lite.read_tensors(FILES[number])
    assert len(tensors) == arrays
    sizes = [tensor.size for name, tensor in tensors.items() if "running" not in name and "num_" not in name]
    assert sum(sizes) == trainable
    kernel, bias = dict(efficientnet_lite.read(FILES[number]))["predictions"]
    assert (kernel.shape, bias.shape) == ((1280, 1000), (1000,))
    np.testing.assert_array_equal(kernel[:, DAISY], tensors["_fc.weight"][DAISY])


def tensor(shape="I3\nI2\n", strides="I1\nI3\n", offset=0, kind="ctorch\nFloatStorage\n"):
    """A pickled tensor over the storage `k` of 6 numbers, as text (protocol 0)."""
    storage = f"(Vstorage\n{kind}Vk\nVcpu\nI6\nNtQ"
    return f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n({shape}t({strides}tI00\nNtR"


OBJECTS = "VO\n"  # what NumPy calls an array of Python objects, which bytes must never become


def torch_file(path, state, numbers=6, magic=efficientnet_lite.MAGIC):
    """What torch.save wrote before PyTorch 1.6; `state` is the text of a pickle without its final dot."""
    header = b"".join(pickle.dumps(value, 2) for value in (magic, 1001, {"little_endian": True}))
    storage = (6).to_bytes(8, "little") + np.arange(numbers, dtype="<f4").tobytes()
    path.write_bytes(header + state.encode() + b"." + pickle.dumps(["k"], 2) + storage)
    return path


def refusal(path):
    with pytest.raises(FlowersError) as caught:
        list(efficientnet_lite.read(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_reads_a_transposed_view(tmp_path):
    path = torch_file(tmp_path / "small.pth", f"(dVw\n{tensor()}s")
    assert efficientnet_lite.read_tensors(path)["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("call", ["os\nsystem", "builtins\neval", "torch\nload", "collections\nCounter"])
def test_a_pickle_that_calls_anything_is_refused(tmp_path, call):
    trace = tmp_path / "trace"
    state = f"(dVw\n{tensor()}sVevil\nc{call}\n(Vtouch {trace}\ntRs"
    assert call.replace("\n", ".") in refusal(torch_file(tmp_path / "evil.pth", state))
    assert not trace.exists()


@pytest.mark.parametrize(
    "reach", [{"offset": 1}, {"offset": -1}, {"strides": "I2\nI3\n"}, {"strides": "I-1\nI3\n"}, {"shape": "I9\nI2\n"}]
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path, reach):
    assert "reaches outside" in refusal(torch_file(tmp_path / "reach.pth", f"(dVw\n{tensor(**reach)}s"))


@pytest.mark.parametrize(
    "path",
    [
        {"state": "(dVw\nI1\ns"},
        {"state": "I1\n"},
        {"state": f"(dVw\n{tensor(kind=OBJECTS)}s"},
        {"state": f"(dVw\n{tensor()}s", "numbers": 5},
        {"state": f"(dVw\n{tensor()}s", "magic": 1},
    ],
)
def test_what_is_no_file_of_tensors_is_refused(tmp_path, path):
    assert "not a whole file" in refusal(torch_file(tmp_path / "odd.pth", **path))


@pytest.mark.parametrize("kept", [0, 10, 100, 30_000, 42_486, 50_000, 18_826_031])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    (tmp_path / "short.pth").write_bytes(FILES[0].read_bytes()[:kept])
    assert "not a whole file" in refusal(tmp_path / "short.pth")


def test_load_refuses_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERS_WEIGHTS", str(tmp_path))
    (tmp_path / FILES[0].name).write_bytes(FILES[0].read_bytes()[:-1])
    with pytest.raises(FlowersError, match="57934424"):
        backbones.load("EfficientNetLite0", 64)


@pytest.mark.parametrize(("number", "another"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_the_weights_of_another_of_them_are_refused(number, another):
    """Layers go by their order, so only the shapes and the number of the arrays can tell."""
    network = efficientnet_lite.build(number, 32)
    layers = efficientnet_lite.read(FILES[another])
    with pytest.raises(FlowersError, match="not its weights"):
        loading.load_strictly(network, layers, by_name=False, source=FILES[another])


def test_the_coefficients_scale_blocks_and_channels():
    """Numbers of blocks, and channels, of each stage, as the reference implementation builds them."""
    built = [(1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1)]
    channels = [(16, 24, 40, 80, 112, 192, 320)] * 2 + [(16, 24, 48, 88, 120, 208, 352)]
    for number in range(3):
        projections = [
            (layer.name[5], layer.filters)
            for layer in efficientnet_lite.build(number, 32).layers
            if layer.name.endswith("_project_conv")
        ]
        expected = [
            (str(stage), width)
            for stage, (blocks, width) in enumerate(zip(built[number], channels[number], strict=True), 1)
            for _ in range(blocks)
        ]
        assert projections == expected
