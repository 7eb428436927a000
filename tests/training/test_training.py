import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import tiny
from sklearn.metrics import f1_score
from tiny import CPU

from flowerlib import augmentation, config, data, predictions, training
from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError
from flowerlib.training import loop
from flowerlib.training.checkpoints import Checkpoint

CONFIG = training.TrainConfig(
    "10_tiny", "DenseNet201", image_size=24, batch_size=8, epochs=4, peak_lr=0.05, weight_decay=0.01,
    label_smoothing=0.1, dropout=0.3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(flowers):
    return training.Run(CONFIG, flowers, CPU)


def compiled(run):
    model = tiny.network(4, dropout=run.config.dropout, seed=run.config.seed)
    model.compile(training.optimizer(run), keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    return model


def batches(run, augment=None):
    return training.train_batches(run, augment or augmentation.Augmentation())


def fit(run, model=None):
    return training.fit(run, model or compiled(run), batches(run), verbose=0)


def test_training_learns_and_its_scores_are_those_of_val(run):
    run = run.with_config(epochs=12, dropout=0.0)
    model = compiled(run)
    history = fit(run, model)
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", "compiled", "planned_epochs"), 12
    )
    assert history["loss"][-1] < 0.7 * history["loss"][0]

    val = training.eval_batches(run, "val")
    images, labels = (np.concatenate(part) for part in list(zip(*val.as_numpy_iterator(), strict=True))[:2])
    probabilities = np.asarray(model(images))
    predicted = probabilities.argmax(axis=1)
    assert history["val_loss"][-1] == pytest.approx(-np.log(probabilities[range(9), labels]).mean(), abs=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx((predicted == labels).mean())
    assert history["val_macro_f1"][-1] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert training.best_epoch(history) == 1 + history["val_macro_f1"].index(max(history["val_macro_f1"]))


def test_validation_has_the_size_of_training_unless_another_is_given(run):
    for sizes, expected in (({}, 24), ({"eval_size": 32}, 32), ({"image_size": 16}, 16)):
        assert next(iter(training.eval_batches(run.with_config(**sizes), "val")))[0].shape == (9, expected, expected, 3)
    assert next(iter(training.eval_batches(run, "val", 40)))[0].shape == (9, 40, 40, 3)


@pytest.fixture
def checkpoint_after_each_epoch(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("checkpoint_after_each_epoch")
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(run):
    whole = compiled(run)
    undisturbed = fit(run.with_config(name="whole"), whole)

    train = batches(run)
    with pytest.raises(tf.errors.OpError):
        training.fit(run, compiled(run), lambda start: train(start=start).take(5).concatenate(broken(train())))

    resumed = compiled(run)
    resumed.set_weights([weight + 1 for weight in resumed.get_weights()])  # they must come from the file
    history = fit(run, resumed)  # made anew, as in a new session
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
import numpy as np
import test_training as t
from flowerlib import data, networks, predictions, training
from flowerlib.training import features, optimizers
from flowerlib.accelerator import keras, tf

flowers = data.find(path=arguments[0])
run = training.Run(t.CONFIG, flowers, device).with_config(epochs=2, dropout=0.0)


def fit(run):
    with device.scope():
        model = t.compiled(run)
    return model, t.fit(run, model)


whole, undisturbed = fit(run.with_config(name="whole"))
fit(run.with_config(hours=0))
resumed, history = fit(run)
np.testing.assert_allclose(history["val_loss"], undisturbed["val_loss"], rtol=1e-4)
np.testing.assert_allclose(history["loss"], undisturbed["loss"], rtol=1e-4)

# After the end the learning rate is 0 and no weight changes; where the end is moved, without compiling anew, they do.
def trained():
    whole.fit(t.batches(run)(start=0), steps_per_epoch=2, verbose=0)
    return [np.asarray(weight) for weight in whole.trainable_weights]


after, still = trained(), trained()
assert all((one == other).all() for one, other in zip(after, still, strict=True))
assert optimizers.move_end(whole.optimizer, 100)
assert all((one != other).any() for one, other in zip(trained(), still, strict=True))

# Float16, whose loss is scaled, trains to the loss of float32.
if keras.config.dtype_policy().name == "mixed_float16":
    assert type(whole.optimizer).__name__ == "LossScaleOptimizer"
    keras.config.set_dtype_policy("float32")
    plain, history = fit(run.with_config(name="float32"))
    np.testing.assert_allclose(undisturbed["loss"], history["loss"], rtol=5e-3)
    assert undisturbed["loss"] != history["loss"]

# A head on features: 35 rows are no multiple of 8.
with device.scope():
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
values = np.random.default_rng(0).standard_normal((2, 35, 6)).astype("float32")
extracted = features.Features(values, np.zeros(35, int), np.arange(35).astype(str))
kernel, bias = (np.asarray(weight) for weight in head.get_weights())
logits = np.exp(values @ kernel + bias)
expected = (logits / logits.sum(axis=2, keepdims=True)).mean(axis=0)
np.testing.assert_allclose(features.predict(head, extracted, 16).probabilities, expected, atol=1e-5)

# The batch statistics of a random network are calibrated on every replica as they are on one.
with device.scope():
    network = networks.load("EfficientNetLite0", 64, "random")
    pooled = keras.Sequential([keras.Input((64, 64, 3)), network, keras.layers.GlobalAveragePooling2D()])
pixels = tf.data.Dataset.from_tensors((tf.zeros((8, 64, 64, 3)), tf.zeros(8), tf.fill([8], "a")))
[(outputs, _, _)] = predictions.iterate_outputs(pooled, pixels, 8)
assert outputs.shape == (1, 8, 1280) and np.isfinite(outputs).all()
"""


@pytest.mark.parametrize(("backend", "precision"), [("jax", "mixed_float16"), ("tensorflow", "float32")])
def test_resume_and_heads_on_8_devices(backend, precision, flowers):
    printed = tiny.run_on_8_devices(backend, RESUME_ON_8, flowers.root, FLOWERS_PRECISION=precision)
    assert "Resuming after epoch 1" in printed


@pytest.fixture(scope="module")
def checkpoint(flowers, tmp_path_factory):
    """What a run leaves that was stopped after the first of its four epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place := tmp_path_factory.mktemp("stopped"))
        fit(training.Run(CONFIG, flowers, CPU).with_config(hours=0))
    return place / training.resume_file(CONFIG)


@pytest.fixture
def stopped(run, checkpoint):
    """A run with that checkpoint; its time is over after one more epoch."""
    run.config.folder.mkdir(parents=True)
    shutil.copy(checkpoint, training.resume_file(run.config))
    return run.with_config(hours=1e-9)


def test_another_configuration_begins_anew(stopped, capsys):
    assert len(fit(stopped.with_config(peak_lr=0.01))["loss"]) == 1
    printed = capsys.readouterr().out
    assert "has other config; it is set aside" in printed
    assert "Resuming" not in printed


def test_what_changes_nothing_in_training_does_not_keep_a_run_from_resuming(stopped, capsys):
    """Another time budget, above all: who has more time goes on."""
    assert len(fit(stopped.with_config(hours=2e-9, tta_sizes=(24, 32), tta_flip=True))["loss"]) == 2
    assert "Resuming after epoch 1" in capsys.readouterr().out


def test_other_data_begin_anew(stopped, capsys):
    other = replace(stopped, flowers=replace(stopped.flowers, fingerprint="000000000000"))
    assert len(fit(other)["loss"]) == 1
    assert "has other data; it is set aside as `.aside-1.resume.npz`, training begins anew" in capsys.readouterr().out


def test_another_augmentation_begins_anew(stopped, capsys):
    history = training.fit(stopped, compiled(stopped), batches(stopped, augmentation.IDENTITY), verbose=0)
    assert len(history["loss"]) == 1
    printed = capsys.readouterr().out
    assert "has other first batch; it is set aside" in printed
    assert "Resuming" not in printed


@pytest.mark.parametrize("damage", ["flipped", "cut short"])
def test_a_damaged_checkpoint_is_named_and_set_aside(stopped, capsys, damage):
    checkpoint = training.resume_file(stopped.config)
    content = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        content[archive.getinfo("1.npy").header_offset + 150] ^= 1  # in the array
    checkpoint.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    assert len(fit(stopped)["loss"]) == 1
    assert "runs/10_tiny/resume.npz` has other bytes than were written, as it seems" in capsys.readouterr().out
    assert checkpoint.with_name(".aside-1.resume.npz").exists()


def test_a_checkpoint_gives_back_weights_optimizer_and_history(run):
    def prepared():
        model = compiled(run)
        model._symbolic_build(data_batch=first.element_spec)
        return model, Checkpoint(run, model, first)

    first = batches(run)(start=0)
    model, checkpoint = prepared()
    assert checkpoint.read() == {}
    model.train_on_batch(*next(iter(first)))
    checkpoint.write({"loss": [1.5]})
    other, again = prepared()
    assert again.read() == {"loss": [1.5]}
    states = ([*each.variables, *each.optimizer.variables] for each in (model, other))
    for mine, theirs in zip(*states, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert int(other.optimizer.iterations) == 1


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7, 46])
def test_batches_from_a_later_one_on_are_the_same_and_the_others_are_not_made(run, start):
    """23 images in batches of 8, so that an epoch's end lies within a batch; 46 batches are 16 epochs."""
    made = []

    def counted(images, seed):
        tf.py_function(lambda: made.append(1), [], [])
        return augmentation.Augmentation()(images, seed)

    later = batches(run, counted)(start=start)
    for mine, theirs in zip(later.take(5), batches(run)(start=0).skip(start).take(5), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])
    assert len(made) <= 5 + data.PREFETCH + data.NUM_PARALLEL_CALLS + 1


def test_a_checkpoint_is_written_every_few_minutes_and_at_the_end(run, monkeypatch):
    written, write = [], Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda *arguments: written.append(arguments) or write(*arguments))
    run = run.with_config(epochs=2)
    fit(run)
    assert len(written) == 1  # two epochs took seconds
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    fit(run.with_config(name="again"))
    assert len(written) == 3
    fit(run.with_config(name="smoke", smoke_test=True))
    assert len(written) == 3


def finished(run, **changes):
    """Leave the record of a run of five epochs."""
    record = {"epochs": 5, "data": {"train": 23}, "smoke_test": False, "val_macro_f1": 0.9}
    run.config.folder.mkdir(parents=True, exist_ok=True)
    (run.config.folder / "run.json").write_text(json.dumps(record | changes))


def test_a_shorter_run_does_not_replace_a_longer_one_unless_it_is_forced(run, monkeypatch):
    finished(run)
    before = r"runs/10_tiny` holds a longer run \(5 epochs of 23 images, macro F1 0.9000 on val\), .*run --force"
    with pytest.raises(FlowersError, match=before):
        fit(run)
    monkeypatch.setenv("FLOWERS_FORCE", "1")
    assert len(fit(run.with_config(hours=0))["loss"]) == 1


@pytest.mark.parametrize("there", [{"epochs": 4}, {"smoke_test": True}, {"data": {"train": 18}}, {"data": None}])
def test_a_run_replaces_what_is_as_long_or_no_result(run, there):
    finished(run, **there)
    assert len(fit(run.with_config(hours=0))["loss"]) == 1


TRAIN = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import test_training as t
from flowerlib import data, training

print("begins", flush=True)
t.fit(training.Run(t.CONFIG, data.find(path=sys.argv[2]), t.CPU))
"""


def test_a_second_training_in_the_same_folder_is_refused_with_the_first_ones_process(run):
    command = [sys.executable, "-c", TRAIN, tiny.PYTHONPATH, run.flowers.root]
    with config.exclusive_lock(run.config.folder / ".lock", pytest.fail):
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "begins\n")
    refused = f"process {os.getpid()} trains in `runs/10_tiny` too; let it end, or give this run another name"
    assert done.stderr.splitlines()[-1].endswith(refused)


def test_a_batch_larger_than_the_split_is_an_error(run):
    with pytest.raises(FlowersError, match=r"`batch_size` \(=24\) must be at most the 23 training images"):
        fit(run.with_config(batch_size=24))


def test_no_epoch_begins_that_does_not_fit_into_the_time(run, capsys):
    assert len(fit(run.with_config(hours=0))["loss"]) == 1
    assert "Stopping after epoch 1" in capsys.readouterr().out


def test_time_epochs_times_each_epoch(run):
    model = compiled(run)
    seconds = training.time_epochs(run, model, batches(run))
    assert len(seconds) == 4
    assert min(seconds) > 0
    assert not training.resume_file(run.config).exists()
    assert int(model.optimizer.iterations) == 8


def test_a_step_is_traced_once(run):
    model, traced = compiled(run), []
    step = model.train_step
    model.train_step = lambda batch: traced.append(batch) or step(batch)
    fit(run, model)
    assert len(traced) == 1


class Clock:
    """In place of the time module: time passes by steps and validations alone, the first of which compile."""

    def __init__(self):
        self.now, self.first = 0.0, {"step": 100.0, "validation": 40.0}

    def monotonic(self):
        return self.now

    def takes(self, what, seconds, work):
        def timed(*arguments, **options):
            self.now += self.first.pop(what, seconds)
            return work(*arguments, **options)

        return timed


def planned_fit(run):
    """Train with the library's optimizer, by that clock: 20 s a step, of which an epoch has two, 10 s a validation."""
    clock = Clock()
    model = tiny.network(4, dropout=0.0, seed=0)
    model.compile(training.optimizer(run), keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", clock)
        patch.setattr(loop._Clock, "on_train_batch_end", clock.takes("step", 20.0, loop._Clock.on_train_batch_end))
        patch.setattr(predictions, "predict", clock.takes("validation", 10.0, predictions.predict))
        return fit(run, model), model, clock.now


def test_where_time_is_short_the_learning_rate_ends_with_it(run, capsys):
    """By hand: 160 s for the first epoch, 50 s for the second, and 290 s of 500 are left.

    The final predictions are 10 s times images of val and test over those of val; an epoch is reckoned with 52.5 s.
    """
    run = run.with_config(epochs=12, hours=500 / 3600)
    final = 10 * (run.flowers.count("val") + run.flowers.count("test")) / run.flowers.count("val")
    epochs = 2 + int((290 - final) // 52.5)
    history, model, seconds = planned_fit(run)
    assert len(history["loss"]) == epochs
    assert history["planned_epochs"] == [12] + [epochs] * (epochs - 1)
    assert 500 - 53 < seconds + final <= 500
    assert f"The time budget has room for {epochs} of 12 epochs: the learning" in capsys.readouterr().out
    last_step = model.optimizer.schedule(2 * epochs - 1)
    assert float(last_step) == pytest.approx(0.05 * (1 + np.cos(np.pi * (1 - 1 / (2 * epochs - 2)))) / 2, rel=1e-4)
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_a_training_with_time_enough_is_as_one_without_a_budget(run, capsys):
    run = run.with_config(dropout=0.0)
    free, *_ = planned_fit(run)
    limited, *_ = planned_fit(run.with_config(name="limited", hours=1.0))
    assert limited["loss"] == free["loss"]
    assert limited["planned_epochs"] == [4] * 4
    assert "time budget" not in capsys.readouterr().out


def test_a_session_that_goes_on_plans_anew(run, capsys):
    """Shortened to few epochs and stopped before their end, then with time for more."""
    run = run.with_config(epochs=12, hours=500 / 3600)
    write = Checkpoint.write

    def killed(checkpoint, history):
        write(checkpoint, history)
        if len(history["loss"]) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", killed)
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            planned_fit(run)
    shortened = capsys.readouterr().out
    assert " of 12 epochs: the learning rate" in shortened
    history, model, _ = planned_fit(run.with_config(hours=1.0))
    assert "Resuming after epoch 3" in (printed := capsys.readouterr().out)
    assert "has room for 12 of 12 epochs" in printed
    assert len(history["loss"]) == 12
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_a_shortened_training_that_was_done_is_not_trained_on(run):
    """Killed while its final predictions were made: the checkpoint is that of its end."""
    run = run.with_config(epochs=12, hours=500 / 3600)
    history, model, _ = planned_fit(run)
    again, same, _ = planned_fit(run.with_config(hours=9.0))
    assert again == history
    for mine, theirs in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_final_predictions_count_every_view_of_val_and_test(run):
    """Two sizes, one twice as large as that of validation, both mirrored: 2 x (1 + 4) views."""
    run = run.with_config(tta_sizes=(24, 48), tta_flip=True)
    val, test = run.flowers.count("val"), run.flowers.count("test")
    assert loop.final_validations(run) == pytest.approx(10 * (val + test) / val)
