import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny
from sklearn.metrics import f1_score

from flowerlib import augmentation, config, data, training
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import FlowersError
from flowerlib.training import loop

CHOICES = {
    "name": "10_tiny",
    "backbone": "DenseNet201",
    "fine_tune": True,
    "image_size": 24,
    "batch_size": 8,
    "epochs": 4,
    "warmup_epochs": 1,
    "peak_lr": 0.05,
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "dropout": 0.3,
    "mix": "none",
    "seed": 0,
}
CPU, TPU = Device("cpu", "test", 1, "tensorflow"), Device("tpu", "test", 8, "jax")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run():
    return training.TrainConfig(**CHOICES)


def compiled(run, flowers):
    model = tiny.network(4, dropout=run.dropout, seed=run.seed)
    optimizer = keras.optimizers.AdamW(training.learning_rate(run, flowers), weight_decay=run.weight_decay)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    return model


def batches(run, flowers, vary=None):
    def train(start=0):
        return data.train_batches(
            flowers, run.batch_size, augment=vary or augmentation.Augmentation(), seed=run.seed, start=start
        )

    return train, data.eval_batches(flowers, "val", run.eval_batch_size)


def test_learning_rate_by_hand(run, flowers):
    """23 images in batches of 8: 2 steps an epoch, so 2 steps of climb, then half a cosine over 6."""
    schedule = training.learning_rate(run, flowers)
    fall = [0.05 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    expected = [0, 0.025, *fall]
    np.testing.assert_allclose([float(schedule(step)) for step in range(9)], expected, atol=1e-8)


@pytest.mark.parametrize("head_lr_multiplier", [1.0, 10.0])
def test_the_head_learns_so_many_times_as_fast(run, flowers, head_lr_multiplier):
    """Adam's first step is the learning rate, whatever the gradient; here without decay."""
    keras.utils.set_random_seed(0)
    first, last = keras.layers.Dense(3), keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((5,)), first, last])
    adamw = training.optimizer(
        replace(run, weight_decay=0.0, warmup_epochs=0, head_lr_multiplier=head_lr_multiplier), flowers
    )
    model.compile(adamw, "mse")
    before = model.get_weights()
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(8, 5)), rng.normal(size=(8, 4)), epochs=1, batch_size=8, verbose=0)
    moved = [abs(new - old) for new, old in zip(model.get_weights(), before, strict=True)]
    for change, rate in zip(moved, [0.05, 0.05, 0.05 * head_lr_multiplier, 0.05 * head_lr_multiplier], strict=True):
        np.testing.assert_allclose(change, rate, rtol=1e-3)


def test_plan_shrinks_on_a_cpu_and_says_so_in_one_line(flowers, capsys):
    planned = training.configure(CPU, **CHOICES, eval_size=224)
    assert planned.smoke_test
    assert planned.eval_size is None  # as small as in training
    assert planned.stored_size is None
    assert planned.steps_per_epoch(flowers) == planned.steps
    assert (planned.name, planned.submission.name) == ("10_tiny-smoke-test", "submission_smoke_test.csv")
    said = capsys.readouterr().out
    assert said.startswith("SMOKE TEST on CPU")
    assert said.count("\n") == 1
    kept = {"backbone", "fine_tune", "peak_lr", "weight_decay", "label_smoothing", "dropout", "mix", "seed"}
    assert {name: asdict(planned)[name] for name in kept} == {name: CHOICES[name] for name in kept}


def test_plan_gives_each_replica_its_batch(capsys):
    assert training.configure(TPU, **CHOICES) == training.TrainConfig(**CHOICES | {"batch_size": 64})
    assert capsys.readouterr().out == ""


def test_the_rate_follows_the_batch_by_the_square_root():
    """Given for 32; eight replicas of 8 make 64, and the rate is sqrt(64 / 32) times as high."""
    planned = training.configure(TPU, lr_batch_size=32, **CHOICES)
    assert (planned.batch_size, planned.peak_lr) == (64, pytest.approx(0.05 * math.sqrt(2)))
    assert training.configure(TPU, lr_batch_size=64, **CHOICES).peak_lr == 0.05


def test_a_run_that_must_not_shrink_does_not():
    assert training.configure(CPU, shrink=False, **CHOICES) == training.TrainConfig(**CHOICES)


def test_the_profile_overrides_the_device(monkeypatch):
    monkeypatch.setenv("FLOWERS_PROFILE", "full")
    assert not training.configure(CPU, **CHOICES).smoke_test
    monkeypatch.setenv("FLOWERS_PROFILE", "smoke")
    assert training.configure(TPU, **CHOICES).smoke_test
    monkeypatch.setenv("FLOWERS_PROFILE", "fast")
    with pytest.raises(FlowersError, match=r"`FLOWERS_PROFILE` \(=fast\) must be full or smoke"):
        training.configure(CPU, **CHOICES)


def test_training_learns_and_tells_the_truth_about_val(run, flowers):
    run = replace(run, epochs=12, dropout=0.0)
    model = compiled(run, flowers)
    train, val = batches(run, flowers)
    history = training.fit(model, train, val, run, flowers, CPU)
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", "compiled"), 12
    )
    assert history["loss"][-1] < 0.7 * history["loss"][0]

    images, labels = (np.concatenate(part) for part in list(zip(*val.as_numpy_iterator(), strict=True))[:2])
    probabilities = np.asarray(model(images))
    predicted = probabilities.argmax(axis=1)
    assert history["val_loss"][-1] == pytest.approx(-np.log(probabilities[range(9), labels]).mean(), abs=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx((predicted == labels).mean())
    assert history["val_macro_f1"][-1] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert training.best_epoch(history) == 1 + history["val_macro_f1"].index(max(history["val_macro_f1"]))


@pytest.fixture
def each_epoch_kept(monkeypatch):
    monkeypatch.setattr(loop, "KEEP_EVERY", 0.0)


@pytest.mark.usefixtures("each_epoch_kept")
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(run, flowers):
    whole = compiled(run, flowers)
    undisturbed = training.fit(whole, *batches(run, flowers), replace(run, name="whole"), flowers, CPU)

    train, val = batches(run, flowers)
    model = compiled(run, flowers)
    with pytest.raises(tf.errors.OpError):
        training.fit(model, lambda start: train(start).take(5).concatenate(broken(train())), val, run, flowers, CPU)

    resumed = compiled(run, flowers)
    resumed.set_weights([weight + 1 for weight in resumed.get_weights()])  # they must come from the file
    history = training.fit(resumed, *batches(run, flowers), run, flowers, CPU)  # made anew, as in a new session
    for name in ("loss", "val_loss", "val_accuracy", "val_macro_f1"):
        np.testing.assert_allclose(history[name], undisturbed[name], rtol=1e-4, err_msg=name)
    for mine, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def broken(train):
    """Batches that cannot be read, as when a disk goes away in the middle of the third epoch."""

    def fail(images, labels):
        with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), ["gone"])]):
            return tf.identity(images), labels

    return train.map(fail)


RESUME_ON_8 = """
from dataclasses import replace

import numpy as np
import test_training as t
from flowerlib.networks import backbones
from flowerlib import data, training
from flowerlib.training import features
from flowerlib.accelerator import keras

flowers = data.find(path=arguments[0])
run = training.Run(**t.CHOICES | {"epochs": 2, "dropout": 0.0})


def fit(run, **options):
    with device.scope():
        model = t.compiled(run, flowers)
    return model, training.fit(model, *t.batches(run, flowers), run, flowers, device, verbose=0, **options)


whole, undisturbed = fit(replace(run, name="whole"))
fit(run, hours=0)
resumed, history = fit(run)
np.testing.assert_allclose(history["val_loss"], undisturbed["val_loss"], rtol=1e-4)
np.testing.assert_allclose(history["loss"], undisturbed["loss"], rtol=1e-4)

# A head on features: 35 rows are no multiple of 8.
with device.scope():
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
values = np.random.default_rng(0).standard_normal((2, 35, 6)).astype("float32")
seen = features.Features(values, np.zeros(35, int), np.arange(35).astype(str))
kernel, bias = (np.asarray(weight) for weight in head.get_weights())
logits = np.exp(values @ kernel + bias)
expected = (logits / logits.sum(axis=2, keepdims=True)).mean(axis=0)
np.testing.assert_allclose(features.predict(head, seen, 16).probabilities, expected, atol=1e-5)

# A random network is settled, with the same statistics on every replica, as it is on one.
with device.scope():
    network = backbones.load("EfficientNetLite0", 64, "random")
assert np.isfinite(network.predict(np.zeros((8, 64, 64, 3), "float32"), verbose=0)).all()
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_resume_and_heads_on_8_devices(backend, flowers):
    assert "Resuming after epoch 1" in tiny.run_on_8_devices(backend, RESUME_ON_8, flowers.root)


def test_other_choices_begin_anew(run, flowers, capsys):
    training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)
    other = replace(run, peak_lr=0.01)
    history = training.fit(compiled(other, flowers), *batches(other, flowers), other, flowers, CPU)
    assert len(history["loss"]) == 4
    assert "Going on" not in capsys.readouterr().out


def test_other_data_begin_anew(run, flowers, capsys):
    training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)
    other = replace(flowers, fingerprint="000000000000")
    training.fit(compiled(run, other), *batches(run, other), run, other, CPU, hours=0)
    assert "has other data; it is set aside as `.aside-1.resume.npz`, training begins anew" in capsys.readouterr().out


def test_other_variations_begin_anew(run, flowers, capsys):
    training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)
    capsys.readouterr()
    training.fit(compiled(run, flowers), *batches(run, flowers, augmentation.IDENTITY), run, flowers, CPU, hours=0)
    said = capsys.readouterr().out
    assert "has other first batch; it is set aside" in said
    assert "Going on" not in said


@pytest.mark.parametrize("damage", ["flipped", "cut short"])
def test_what_was_kept_and_is_damaged_is_named_and_set_aside(run, flowers, capsys, damage):
    training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)
    kept = training.resume_file(run)
    content = bytearray(kept.read_bytes())
    with zipfile.ZipFile(kept) as archive:
        content[archive.getinfo("1.npy").header_offset + 150] ^= 1  # in the array
    kept.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    history = training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU)
    assert len(history["loss"]) == 4
    assert "runs/10_tiny/resume.npz` has other bytes than were written, as it seems" in capsys.readouterr().out
    assert kept.with_name(".aside-1.resume.npz").exists()


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7, 46])
def test_batches_from_a_later_one_on_are_the_same_and_the_others_are_not_made(run, flowers, start):
    """23 images in batches of 8, so that an epoch's end lies within a batch; 46 batches are 16 epochs."""
    train, _ = batches(run, flowers)
    made = []

    def counted(images, seed):
        tf.py_function(lambda: made.append(1), [], [])
        return augmentation.Augmentation()(images, seed)

    later = data.train_batches(flowers, run.batch_size, augment=counted, seed=run.seed, start=start)
    for mine, theirs in zip(later.take(5), train(0).skip(start).take(5), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])
    assert len(made) <= 5 + data.PREFETCH + data.NUM_PARALLEL_CALLS + 1


def test_what_a_resume_needs_is_kept_every_few_minutes_and_at_the_end(run, flowers, monkeypatch):
    kept, keep = [], loop.write_checkpoint
    monkeypatch.setattr(loop, "write_checkpoint", lambda *arguments: kept.append(arguments) or keep(*arguments))
    training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU)
    assert len(kept) == 1  # four epochs took a second or two
    monkeypatch.setattr(loop, "KEEP_EVERY", 0.0)
    training.fit(compiled(run, flowers), *batches(run, flowers), replace(run, name="again"), flowers, CPU)
    assert len(kept) == 5


def finished(run, flowers, **changes):
    """Leave the record of a run of five epochs."""
    record = {"epochs": 5, "data": {"train": flowers.count("train")}, "smoke_test": False, "val_macro_f1": 0.9}
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "run.json").write_text(json.dumps(record | changes))


def test_a_shorter_run_does_not_replace_a_longer_one_unless_it_is_forced(run, flowers, monkeypatch):
    finished(run, flowers)
    before = r"runs/10_tiny` holds a longer run \(5 epochs of 23 images, macro F1 0.9000 on val\), .*run --force"
    with pytest.raises(FlowersError, match=before):
        training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU)
    monkeypatch.setenv("FLOWERS_FORCE", "1")
    assert len(training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU)["loss"]) == 4


@pytest.mark.parametrize("there", [{"epochs": 4}, {"smoke_test": True}, {"data": {"train": 18}}, {"data": None}])
def test_a_run_replaces_what_is_as_long_or_no_result(run, flowers, there):
    finished(run, flowers, **there)
    assert len(training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)["loss"]) == 1


TRAIN = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import test_training as t
from flowerlib import data, training

flowers, run = data.find(path=sys.argv[2]), training.Run(**t.CHOICES)
train, val = t.batches(run, flowers)
print("begins", flush=True)
training.fit(t.compiled(run, flowers), train, val, run, flowers, t.CPU, verbose=0)
"""


def test_a_second_training_in_the_same_folder_is_refused_with_the_first_ones_process(run, flowers):
    command = [sys.executable, "-c", TRAIN, tiny.PYTHONPATH, flowers.root]
    with config.exclusive_lock(run.folder / ".lock", pytest.fail):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    refused = f"process {os.getpid()} trains in `runs/10_tiny` too; let it end, or give this run another name"
    assert done.stderr.splitlines()[-1].endswith(refused)


def test_a_batch_larger_than_the_split_and_an_endless_warm_up_are_errors(run, flowers):
    with pytest.raises(FlowersError, match=r"`batch_size` \(=24\) must be at most the 23 training images"):
        replace(run, batch_size=24).steps_per_epoch(flowers)
    with pytest.raises(FlowersError, match=r"`epochs` \(=3\) must be more than `warmup_epochs` \(=3\)"):
        training.configure(CPU, **CHOICES | {"epochs": 3, "warmup_epochs": 3})


def test_scales_and_biases_do_not_decay(run, flowers):
    """One step of no gradient: AdamW multiplies what decays by 1 - lr * decay, and leaves the rest."""
    optimizer = training.optimizer(replace(run, warmup_epochs=0, weight_decay=0.5, peak_lr=0.1), flowers)
    names = ("kernel", "bias", "gamma", "beta")
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in names]
    optimizer.build(variables)
    optimizer.apply([np.zeros(2, "float32")] * 4)
    after = {name: float(variable[0]) for name, variable in zip(names, variables, strict=True)}
    assert after == pytest.approx({"kernel": 1 - 0.1 * 0.5, "bias": 1, "gamma": 1, "beta": 1})


def test_no_epoch_begins_that_does_not_fit_into_the_time(run, flowers, capsys):
    history = training.fit(compiled(run, flowers), *batches(run, flowers), run, flowers, CPU, hours=0)
    assert len(history["loss"]) == 1
    assert "Stopping after epoch 1" in capsys.readouterr().out


def test_time_epochs_times_each_epoch(run, flowers):
    model = compiled(run, flowers)
    seconds = training.time_epochs(model, batches(run, flowers)[0](0), run, flowers, CPU)
    assert len(seconds) == 4
    assert min(seconds) > 0
    assert not training.resume_file(run).exists()
    assert int(model.optimizer.iterations) == 8


def test_a_step_is_traced_once(run, flowers):
    model, traced = compiled(run, flowers), []
    step = model.train_step
    model.train_step = lambda batch: traced.append(batch) or step(batch)
    training.fit(model, *batches(run, flowers), run, flowers, CPU, verbose=0)
    assert len(traced) == 1
