"""Train: validation after each epoch, resume, the time budget."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from flowerlib import predictions
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import FlowersError, exclusive_lock, read_record
from flowerlib.data import Flowers
from flowerlib.networks import fused_norm
from flowerlib.training.checkpoints import (
    History,
    describe_training,
    read_checkpoint,
    resume_file,
    write_checkpoint,
)
from flowerlib.training.config import TrainConfig

KEEP_EVERY = 120.0  # seconds of training that a run which is killed may lose, where epochs are shorter
Batches = Callable[..., tf.data.Dataset]  # with `start`, the number of a batch: endless batches from that one on


class _Clock(keras.callbacks.Callback):
    """Note the seconds of each epoch, validation not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.monotonic() - self.began)


class _EpochEnd(keras.callbacks.Callback):
    """Validate, keep what a resume needs, and stop while there is time to leave the results."""

    def __init__(
        self, val: tf.data.Dataset, config: TrainConfig, what: dict, history: History, clock: _Clock, hours: float
    ) -> None:
        super().__init__()
        self.val, self.config, self.what, self.history, self.clock = val, config, what, history, clock
        self.kept, self.deadline = time.monotonic(), time.monotonic() + 3600 * hours

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        said = predictions.predict(self.model, self.val, self.config.eval_batch_size)
        logs |= {f"val_{name}": value for name, value in said.scores().items()}
        compiled = len(self.clock.seconds) == 1  # the first epoch of a session
        for name, value in {**logs, "seconds": self.clock.seconds[-1], "compiled": compiled}.items():
            self.history.setdefault(name, []).append(float(value))
        now = time.monotonic()
        if now + 1.2 * (now - self.clock.began) > self.deadline and epoch + 1 < self.config.epochs:
            print(f"Stopping after epoch {epoch + 1}: another would not fit into the time budget.")
            self.model.stop_training = True
        last = self.model.stop_training or epoch + 1 == self.config.epochs
        if not self.config.smoke_test and (last or now > self.kept + KEEP_EVERY):
            write_checkpoint(self.model, self.what, self.config, self.history)
            self.kept = now


@contextmanager
def prepared(model: keras.Model, train: tf.data.Dataset, device: Device) -> Iterator[None]:
    """Within it, `model.fit(train)` begins sooner and takes quicker steps, to the same weights.

    The variables of optimiser and metrics are made now. On TensorFlow Keras would make them while it traces the first
    step, and TensorFlow would then trace that step a second time. For the steps see `fused_norm.normalisation`.
    """
    with device.scope():
        model._symbolic_build(data_batch=train.element_spec)
    with fused_norm.fused_batch_norm(model):
        yield


def fit(
    model: keras.Model,
    train: Batches,
    val: tf.data.Dataset,
    config: TrainConfig,
    flowers: Flowers,
    device: Device,
    *,
    hours: float = float("inf"),
    verbose: int = 1,
) -> History:
    """Train a compiled model, measuring log loss, accuracy and macro F1 on val after each epoch.

    A run that was stopped goes on as if it had not been stopped: the weights and the optimiser's state are left in
    `runs/<name>/resume.npz`, after each epoch or, where those are short, every two minutes; the batches already used
    are not made again. What is kept of another training, or was damaged, is set aside.

    Args:
        model: inputs as in the batches, outputs probabilities `(B, num_classes)`.
        train: returns endless batches from the one of that number on, as `data.train_batches` with its `start`.
        val: the validation split in batches of `config.eval_batch_size`, as from `data.eval_batches`.
        config: epochs, batch size and folder are used here.
        flowers: the dataset; its count gives the steps an epoch.
        device: what `model` was built on.
        hours: the time budget; no epoch begins that would not end within it.
        verbose: 1 for a progress bar an epoch, 0 for none, as in Keras.

    Returns:
        For each of loss, accuracy, val_loss, val_accuracy, val_macro_f1, seconds (of training alone) and compiled (1
        where those include compilation, in the first epoch of a session, else 0), one number an epoch.
    """
    steps = config.steps_per_epoch(flowers)
    _refuse_to_replace(config, flowers)
    clock, first = _Clock(), train(start=0)
    with exclusive_lock(config.folder / ".lock", partial(_refuse_second, config)), prepared(model, first, device):
        what = describe_training(model, first, config, flowers)
        del first  # it may hold all features
        history = read_checkpoint(model, what, config)
        done = len(history.get("loss", []))
        if done:
            print(f"Resuming after epoch {done} ({resume_file(config)}).")
        model.fit(
            train(start=done * steps),
            steps_per_epoch=steps,
            epochs=config.epochs,
            initial_epoch=done,
            shuffle=False,  # the pipeline does that
            verbose=verbose,
            callbacks=[clock, _EpochEnd(val, config, what, history, clock, hours)],
        )
    return history


def _refuse_second(config: TrainConfig, process: str) -> None:
    raise FlowersError(f"process {process} trains in `{config.folder}` too; let it end, or give this run another name")


def longer_run(config: TrainConfig, images: int) -> str | None:
    """Return in a few words the run of this name that trained on more than so many images, None if there is none."""
    try:
        record = read_record(config.folder / "run.json")
        if record["smoke_test"] or record["epochs"] * record["data"]["train"] <= images:
            return None
        return "{epochs} epochs of {data[train]:,} images, macro F1 {val_macro_f1:.4f} on val".format(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forced() -> bool:
    """Return whether a run may replace a longer one, as `FLOWERS_FORCE` says."""
    return os.environ.get("FLOWERS_FORCE") == "1"


def _refuse_to_replace(config: TrainConfig, flowers: Flowers) -> None:
    longer = longer_run(config, config.epochs * flowers.count("train"))
    if longer and not forced():
        raise FlowersError(
            f"`{config.folder}` holds a longer run ({longer}), which this one of {config.epochs} epochs of "
            f"{flowers.count('train'):,} images would replace; run it with --out elsewhere, change its NAME, or use "
            "`flowerlib run --force` (FLOWERS_FORCE=1)"
        )


def time_epochs(
    model: keras.Model, train: tf.data.Dataset, config: TrainConfig, flowers: Flowers, device: Device
) -> list[float]:
    """Train a compiled model and return the seconds of each epoch, without validation; the first includes compilation.

    Arguments as in `fit`.
    """
    clock = _Clock()
    steps = config.steps_per_epoch(flowers)
    with prepared(model, train, device):
        model.fit(train, steps_per_epoch=steps, epochs=config.epochs, shuffle=False, callbacks=[clock])
    return clock.seconds


def best_epoch(history: History) -> int:
    """Return the epoch, from 1, with the best macro F1 on val."""
    return int(np.argmax(history["val_macro_f1"])) + 1
