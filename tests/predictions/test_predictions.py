import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny
from sklearn.metrics import confusion_matrix

from flowerlib import data, predictions
from flowerlib.config import FlowersError
from flowerlib.predictions import Predictions, inference


@pytest.fixture(scope="module")
def model():
    return tiny.network(4)


def one_by_one(model, flowers, split, flip=False):
    """The second path: each image alone, decoded here, through the layers themselves."""
    images = np.concatenate([batch[0] for batch in data.eval_batches(flowers, split, 1)])
    images = images[:, :, ::-1] if flip else images
    return np.concatenate([np.asarray(model(image[None])) for image in images])


@pytest.mark.parametrize("batch_size", [1, 4, 9, 64])
def test_padding_leaves_no_trace(model, flowers, batch_size):
    val = predictions.predict(model, data.eval_batches(flowers, "val", batch_size), batch_size)
    np.testing.assert_allclose(val.probabilities, one_by_one(model, flowers, "val"), atol=1e-6)
    # Written by the fixture: 23 train records come first, the label is the number modulo 4.
    assert val.ids.tolist() == [f"{number:09x}" for number in range(23, 32)]
    assert val.labels.tolist() == [number % 4 for number in range(23, 32)]


def test_views_are_averaged_by_hand():
    labels, ids = np.array([1, -1]), np.array(["a", "b"])
    views = [
        Predictions(np.array(probabilities, np.float32), labels, ids)
        for probabilities in ([[1, 0], [0.25, 0.75]], [[0, 1], [0.75, 0.25]])
    ]
    averaged = predictions.average_views(views)
    assert averaged.probabilities.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (averaged.labels is labels, averaged.ids is ids) == (True, True)


def test_the_confusion_matrix_is_that_of_scikit_learn(model, flowers):
    val = predictions.predict(model, data.eval_batches(flowers, "val", 9), 9)
    expected = confusion_matrix(val.labels, one_by_one(model, flowers, "val").argmax(axis=1), labels=range(4))
    np.testing.assert_array_equal(val.confusion(), expected)
    labels, probabilities = np.array([0, 0, 2, 1]), np.eye(4)[[0, 1, 2, 2]]  # class 3 is nowhere
    table = Predictions(probabilities, labels, np.array(list("abcd"))).confusion()
    assert table.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_flip_averages_an_image_and_its_mirror_image(model, flowers):
    test = predictions.predict(model, data.eval_batches(flowers, "test", 4), 4, flip=True)
    expected = (one_by_one(model, flowers, "test") + one_by_one(model, flowers, "test", flip=True)) / 2
    np.testing.assert_allclose(test.probabilities, expected, atol=1e-6)
    assert test.labels.tolist() == [-1] * 7


def test_a_diverged_model_is_an_error(flowers):
    model = tiny.network(4)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(FlowersError, match="training diverged; lower the learning rate"):
        predictions.predict(model, data.eval_batches(flowers, "val", 4), 4)


PREDICT_35 = """
import numpy as np
import tiny
from flowerlib import predictions
from flowerlib.accelerator import tf
from flowerlib.predictions import inference

given = np.load(arguments[0])
images = given["images"]
with device.scope():
    model = tiny.network(4)
model.set_weights([given[f"weight{index}"] for index in range(len(model.weights))])
ids = [str(index) for index in range(35)]
batches = tf.data.Dataset.from_tensor_slices((images, np.arange(35), ids)).batch(16)
predicted = predictions.predict(model, batches, 16)
if device.backend == "jax":  # each device has a share of the batch, not all of it
    [share] = {shard.data.shape for shard in inference._run(model)(tf.zeros((16, 24, 24, 3))).addressable_shards}
    assert share == (2, 4), share
assert predicted.ids.tolist() == ids and predicted.labels.tolist() == list(range(35))
np.save(arguments[1], predicted.probabilities)
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_35_images_on_8_devices_equal_one_by_one(backend, model, tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (35, 24, 24, 3)).astype("float32")
    weights = {f"weight{index}": value for index, value in enumerate(model.get_weights())}
    np.savez(tmp_path / "in.npz", images=images, **weights)
    tiny.run_on_8_devices(backend, PREDICT_35, str(tmp_path / "in.npz"), str(tmp_path / "out.npy"))
    expected = np.concatenate([np.asarray(model(image[None])) for image in images])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_outputs_are_fetched_while_the_next_batch_runs(model, flowers, monkeypatch):
    events = []

    class Started:
        def __init__(self):
            self.number = len([event for event in events if event.startswith("start")])
            events.append(f"start {self.number}")

        def __array__(self, *_, **__):
            events.append(f"fetch {self.number}")
            return np.zeros((4, 2), np.float32)

    monkeypatch.setattr(inference, "_run", lambda model: lambda inputs: Started())
    list(predictions.iterate_outputs(model, data.eval_batches(flowers, "val", 4), 4))
    assert events == ["start 0", "start 1", "fetch 0", "start 2", "fetch 1", "fetch 2"]


def test_ids_in_which_any_letter_stands_come_through(model, records, write_flowers, tmp_path):
    records["val"][0][0]["id"] = "gänse/löwe 花.jpg".encode()
    flowers = data.find(path=write_flowers(tmp_path, records))
    val = predictions.predict(model, data.eval_batches(flowers, "val", 4), 4)
    assert val.ids[0] == data.labels_and_ids(flowers, "val")[1][0] == "gänse/löwe 花.jpg"


def test_mirror_images_are_those_of_numpy(flowers):
    for images, mirrored, labels, ids in data.with_mirror_images(data.eval_batches(flowers, "val", 4)):
        np.testing.assert_array_equal(mirrored, images.numpy()[:, :, ::-1])
        assert mirrored.dtype == images.dtype
        assert len(images) == len(labels) == len(ids)


def test_a_model_is_let_go_with_its_program(flowers):
    model = tiny.network(4)
    predictions.predict(model, data.eval_batches(flowers, "val", 4), 4)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


INTERRUPTED = """
import numpy as np
import tiny
from flowerlib import predictions
from flowerlib.accelerator import tf

def batch(number):
    with tf.control_dependencies([tf.debugging.assert_less(number, 3)]):
        return tf.zeros((8, 24, 24, 3)), tf.zeros(8), tf.fill([8], "a")

model = tiny.network(4)
before = np.asarray(model(np.ones((8, 24, 24, 3))))
try:
    predictions.predict(model, tf.data.Dataset.range(9, output_type=tf.int32).map(batch), 8)
except tf.errors.InvalidArgumentError:
    print("interrupted")
np.testing.assert_array_equal(model(np.ones((8, 24, 24, 3))), before)
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_a_model_whose_predicting_is_interrupted_can_still_be_used(backend):
    assert tiny.run_on_8_devices(backend, INTERRUPTED) == "interrupted\n"


def example(count=3, first_id=0):
    probabilities = np.random.default_rng(count).dirichlet(np.ones(4), count).astype("float32")
    ids = np.array([f"{first_id + number:09x}" for number in range(count)])
    return Predictions(probabilities, np.arange(count) % 4, ids)


def leave_run(folder, name="10_net"):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"name": name, "smoke_test": name.endswith("-smoke-test")}))
    predictions.save(folder / "predictions.npz", example(3), example(2, 3), ("a", "b", "c", "d"))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    leave_run(tmp_path / "run")
    run = predictions.load(tmp_path / "run")
    assert run.name == "10_net"
    assert run.classes == ("a", "b", "c", "d")
    for loaded, saved in ((run.val, example(3)), (run.test, example(2, 3))):
        for name, value in vars(saved).items():
            np.testing.assert_array_equal(getattr(loaded, name), value)


@pytest.mark.parametrize("damage", ["no run.json", "no arrays", "half of the arrays", "run.json not JSON"])
def test_a_damaged_run_is_named(tmp_path, damage):
    leave_run(tmp_path / "run")
    arrays = tmp_path / "run/predictions.npz"
    if damage == "no run.json":
        (tmp_path / "run/run.json").unlink()
    elif damage == "no arrays":
        arrays.unlink()
    elif damage == "half of the arrays":
        arrays.write_bytes(arrays.read_bytes()[: arrays.stat().st_size // 2])
    else:
        (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(FlowersError, match=r"run` is not what a run leaves \(.*; run its notebook again"):
        predictions.load(tmp_path / "run")


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """The folder that stands for /kaggle; the notebook runs in `tmp_path / "working"`."""
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path / "kaggle"))
    return tmp_path / "kaggle"


def test_runs_are_found_wherever_they_are_mounted(kaggle):
    leave_run(Path("runs/20_b"), "20_b")
    leave_run(kaggle / "input/notebooks/someone/kernel-a/runs/10_a", "10_a")
    leave_run(kaggle / "input/kernel-c/runs/30_c", "30_c")
    assert [run.name for run in predictions.find_runs()] == ["10_a", "20_b", "30_c"]


def test_a_run_mounted_under_two_names_is_one_run(kaggle):
    leave_run(kaggle / "elsewhere/runs/10_a", "10_a")
    (kaggle / "input/notebooks").mkdir(parents=True)
    for link in ("input/kernel-a", "input/notebooks/kernel-a"):
        (kaggle / link).symlink_to(kaggle / "elsewhere", target_is_directory=True)
    (kaggle / "elsewhere/loop").symlink_to(kaggle / "elsewhere", target_is_directory=True)
    leave_run(kaggle / "elsewhere/.123.half", "10_a")
    assert [run.name for run in predictions.find_runs()] == ["10_a"]


def test_smoke_tests_are_left_out_where_there_is_another_run_and_stopped_ones_where_the_whole_is(kaggle, capsys):
    for name in ("10_a", "10_a-smoke-test", "10_a-unfinished", "11_b-smoke-test", "12_c-unfinished"):
        leave_run(Path("runs") / name, name)
    assert [run.name for run in predictions.find_runs()] == ["10_a", "12_c-unfinished"]
    left_out = ("10_a-smoke-test", "10_a-unfinished", "11_b-smoke-test")
    assert capsys.readouterr().out.splitlines() == [f"{name} is left out: there is a whole run." for name in left_out]


def test_where_there_are_smoke_tests_only_they_are_taken(kaggle, capsys):
    for name in ("10_a-smoke-test", "11_b-smoke-test"):
        leave_run(Path("runs") / name, name)
    assert [run.name for run in predictions.find_runs()] == ["10_a-smoke-test", "11_b-smoke-test"]
    assert capsys.readouterr().out == ""


def test_runs_that_are_named_are_taken_and_no_others(kaggle, capsys):
    for name in ("10_a", "10_a-smoke-test", "11_b", "12_c"):
        leave_run(Path("runs") / name, name)
    assert [run.name for run in predictions.find_runs(("12_c", "10_a"))] == ["10_a", "12_c"]
    assert [run.name for run in predictions.find_runs(["10_a-smoke-test"])] == ["10_a-smoke-test"]  # asked for
    assert capsys.readouterr().out == ""
    with pytest.raises(FlowersError, match="no run 13_d; there are 10_a, 10_a-smoke-test, 11_b, 12_c"):
        predictions.find_runs(["13_d", "10_a"])


def test_no_run_and_one_run_twice_are_errors(kaggle):
    with pytest.raises(FlowersError, match=f"no run .* below `runs`, `{kaggle}/input`; run a backbone notebook first"):
        predictions.find_runs()
    leave_run(Path("runs/here"), "10_a")
    leave_run(kaggle / "input/there", "10_a")
    with pytest.raises(FlowersError, match=r"run 10_a is there twice, in .*here.*there"):
        predictions.find_runs()


def test_a_submission_to_the_byte(tmp_path):
    test = Predictions(np.eye(4, dtype="float32")[[2, 0, 3]], np.full(3, -1), np.array(["0a", "00", "ff"]))
    predictions.write_submission(test, tmp_path / "submission.csv", count=3)
    assert (tmp_path / "submission.csv").read_bytes() == b"id,label\n0a,2\n00,0\nff,3\n"


def test_a_wrong_submission_is_not_written(tmp_path):
    with pytest.raises(FlowersError, match="3 predictions for 4 test images"):
        predictions.write_submission(example(3), tmp_path / "submission.csv", count=4)
    twice = example(3)
    twice.ids[2] = twice.ids[0]
    with pytest.raises(FlowersError, match="1 test ids are there twice"):
        predictions.write_submission(twice, tmp_path / "submission.csv", count=3)
    assert not any(tmp_path.iterdir())
