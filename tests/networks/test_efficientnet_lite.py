"""EfficientNet-Lite0 against the reference implementation, and its reader against files that mean harm.

Expected numbers: `efficientnet-lite-pytorch` 0.1.0 with torch 2.13 and the same weights, on `picture(size)`.
"""

import hashlib
import os
import pickle

import numpy as np
import pytest

from flowerlib import data
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import backbones, efficientnet_lite, weights

FLOWERS = os.environ.get("FLOWERS_DATA")
FILE = weights.find(backbones.BACKBONES["EfficientNetLite0"].weights)
REFERENCE = {
    192: {
        "features": {(0, 0, 423): 2.91107, (0, 0, 755): 1.60758, (2, 3, 979): 4.62204, (5, 5, 36): 1.25732},
        "mean": 0.18859216,
        "logits": {506: 7.766106, 488: 7.645597, 616: 6.864477, 673: 5.845504, 723: 5.504303},
    },
    224: {
        "features": {(0, 0, 423): 3.37851, (0, 0, 755): 2.1504, (2, 3, 13): 3.52896, (6, 6, 327): 2.00159},
        "mean": 0.16914347,
        "logits": {506: 8.109696, 488: 6.621211, 616: 5.680758, 723: 5.449508, 673: 5.042141},
    },
}
DAISY = 985  # of the 1000 ImageNet classes


def picture(size):
    """A coloured pinwheel, the same in every version of every library."""
    y, x, channel = np.meshgrid(np.arange(size) - size / 2, np.arange(size) - size / 2, np.arange(3), indexing="ij")
    phase = np.hypot(y, x) / (9 + 4 * channel) + 5 * np.arctan2(y, x)
    return np.round(127.5 + 127.5 * np.cos(phase)).astype("float32")


def logits(features):
    """Feature maps (B, h, w, 1280) -> the ImageNet logits (B, 1000) of the classifier in the file."""
    kernel, bias = dict(efficientnet_lite.read(FILE))["predictions"]
    return np.mean(features, (1, 2)) @ kernel + bias


@pytest.mark.parametrize("size", REFERENCE)
def test_equals_the_reference_implementation(size):
    expected = REFERENCE[size]
    maps = backbones.load("EfficientNetLite0", size).predict_on_batch(picture(size)[None])
    assert maps.shape == (1, size // 32, size // 32, 1280)
    found = [maps[0][place] for place in expected["features"]]
    np.testing.assert_allclose(found, list(expected["features"].values()), atol=1e-4)
    assert maps.mean(dtype="float64") == pytest.approx(expected["mean"], abs=1e-6)
    top = np.argsort(logits(maps)[0])[:-6:-1]
    assert top.tolist() == list(expected["logits"])
    np.testing.assert_allclose(logits(maps)[0][top], list(expected["logits"].values()), atol=1e-4)


@pytest.mark.skipif(not FLOWERS, reason="FLOWERS_DATA is not set: no daisies to classify")
def test_every_oxeye_daisy_is_a_daisy():
    flowers = data.find(192, FLOWERS)
    daisies = []
    for split in ("train", "val"):
        for images, labels, _ in data.eval_batches(flowers, split, 64).as_numpy_iterator():
            daisies += [image for image, label in zip(images, labels, strict=True) if flowers.classes[label] == "daisy"]
    if len(daisies) != 34:
        pytest.skip(f"FLOWERS_DATA has {len(daisies)} labelled daisies, not the 34 (of 49) of Oxford Flowers-102")
    maps = backbones.load("EfficientNetLite0", 192).predict_on_batch(np.stack(daisies))
    assert logits(maps).argmax(-1).tolist() == [DAISY] * 34


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


def test_the_file_is_the_one_that_its_name_says():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest()[:8] == "57934424"  # torch.hub ends a name in its sha256


def test_the_classifier_is_that_of_the_file():
    tensors = efficientnet_lite.read_tensors(FILE)
    assert len(tensors) == 296
    assert (
        sum(tensor.size for name, tensor in tensors.items() if "running" not in name and "num_" not in name) == 4652008
    )
    kernel, bias = dict(efficientnet_lite.read(FILE))["predictions"]
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
    (tmp_path / "short.pth").write_bytes(FILE.read_bytes()[:kept])
    assert "not a whole file" in refusal(tmp_path / "short.pth")


def test_load_refuses_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERS_WEIGHTS", str(tmp_path))
    (tmp_path / FILE.name).write_bytes(FILE.read_bytes()[:-1])
    with pytest.raises(FlowersError, match="57934424"):
        backbones.load("EfficientNetLite0", 64)
