"""Train: validation after each epoch, checkpoints, the time budget."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from flowerlib import predictions
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import FlowersError, exclusive_lock, read_record
from flowerlib.networks import fused_norm
from flowerlib.training import optimizers
from flowerlib.training.checkpoints import Checkpoint, History, resume_file
from flowerlib.training.run import Batches, Run, eval_batches

CHECKPOINT_SECONDS = 120.0  # of training that a run which is killed may lose, where epochs are shorter
MARGIN = 1.05  # by which later epochs may take longer than the one that the plan is made of


class _Clock(keras.callbacks.Callback):
    """Note the seconds of each epoch, validation not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = self.first_step_ended = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0:
            self.first_step_ended = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        now, steps = time.monotonic(), self.params["steps"]
        self.seconds.append(now - self.began)
        # Without the first step, which may have compiled.
        self.without_compiling = (now - self.first_step_ended) * steps / (steps - 1) if steps > 1 else now - self.began


class _EpochEnd(keras.callbacks.Callback):
    """Validate, write a checkpoint, and have training end while there is time to leave the results."""

    def __init__(self, run: Run, val: tf.data.Dataset, checkpoint: Checkpoint, history: History, clock: _Clock) -> None:
        super().__init__()
        self.run, self.val, self.checkpoint, self.history, self.clock = run, val, checkpoint, history, clock
        hours = run.config.hours
        self.deadline = time.monotonic() + 3600 * (math.inf if hours is None else hours)
        self.planned = planned_epochs(run, history)
        self.last_checkpoint = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        began = time.monotonic()
        self._validate(logs)
        now = time.monotonic()
        self._plan(epoch + 1, now - began)
        self.history.setdefault("planned_epochs", []).append(self.planned)
        ended = self.model.stop_training
        if not self.run.config.smoke_test and (ended or now > self.last_checkpoint + CHECKPOINT_SECONDS):
            self.checkpoint.write(self.history)
            self.last_checkpoint = now

    def _plan(self, done: int, validation: float) -> None:
        """Have the learning rate reach 0 where the time budget ends, or stop where it has no room for another epoch.

        Args:
            done: epochs.
            validation: seconds of the last one. The final predictions take a multiple of them.
        """
        config, session = self.run.config, len(self.clock.seconds)
        epoch = MARGIN * (self.clock.without_compiling + validation)
        left = self.deadline - time.monotonic() - self._final_seconds(validation)
        fit = int(max(0, min(left / epoch, config.epochs)))
        if not fit and done < self.planned:
            print(f"Stopping after epoch {done}: another would not fit into the time budget.")
            self.model.stop_training = True
        elif session > 1:  # the first validation compiles
            self._move_end(min(done + fit, config.epochs if session == 2 else self.planned))
        if done == self.planned:
            self.model.stop_training = True

    def _final_seconds(self, validation: float) -> float:
        """How long the final predictions take; where nothing is val, at most as long as to train on as many images."""
        if self.run.flowers.count("val"):
            return validation * final_validations(self.run)
        images = self.run.steps_per_epoch * self.run.config.batch_size
        return self.clock.without_compiling * final_views(self.run) * self.run.flowers.count("test") / images

    def _move_end(self, planned: int) -> None:
        if planned != self.planned and optimizers.move_end(self.model.optimizer, planned * self.run.steps_per_epoch):
            self.planned = planned
            epochs = f"{planned} of {self.run.config.epochs} epochs"
            print(f"The time budget has room for {epochs}: the learning rate reaches 0 by then.")

    def _validate(self, logs: dict) -> None:
        """Add the scores on val, if it has images, to the logs, and all of them to the history."""
        val = predictions.predict(self.model, self.val, self.run.config.eval_batch_size)
        logs |= {f"val_{name}": value for name, value in val.scores().items()}
        compiled = len(self.clock.seconds) == 1  # the first epoch of a session
        for name, value in {**logs, "seconds": self.clock.seconds[-1], "compiled": compiled}.items():
            self.history.setdefault(name, []).append(float(value))


def planned_epochs(run: Run, history: History) -> int:
    """Return how many epochs a training has in all, as planned last: fewer than `epochs` where time is short."""
    return int(history.get("planned_epochs", [run.config.epochs])[-1])


def final_validations(run: Run) -> float:
    """Return how many times as long as a validation the final predictions take: val and test, in every view."""
    val, size = run.flowers.count("val"), run.config.eval_size or run.config.image_size
    views = final_views(run) * (run.config.image_size / size) ** 2
    return views * (val + run.flowers.count("test")) / val


def final_views(run: Run) -> float:
    """Return how many images of the size of training have as many pixels as all views of an image have together."""
    config = run.config
    sizes = config.tta_sizes or (config.eval_size or config.image_size,)
    return (1 + config.tta_flip) * sum((size / config.image_size) ** 2 for size in sizes)


@contextmanager
def prepared(model: keras.Model, train: tf.data.Dataset, device: Device) -> Iterator[None]:
    """Within it, `model.fit(train)` begins sooner and takes quicker steps, to the same weights.

    The variables of optimizer and metrics are made now. On TensorFlow Keras would make them while it traces the first
    step, and TensorFlow would then trace that step a second time. For the steps see `fused_norm.fused_batch_norm`.
    """
    with device.scope():
        model._symbolic_build(data_batch=train.element_spec)
    with fused_norm.fused_batch_norm(model):
        yield


def fit(
    run: Run, model: keras.Model, train: Batches, val: tf.data.Dataset | None = None, *, verbose: int = 1
) -> History:
    """Train a compiled model, measuring log loss, accuracy and macro F1 on val after each epoch.

    A run that was stopped goes on as if it had not been stopped: a checkpoint of weights and optimizer is left in
    `runs/<name>/resume.npz`, after each epoch or, where those are short, every two minutes; the batches already used
    are not made again. What is kept of another training, or was damaged, is set aside.

    Where `hours` do not suffice for all epochs and the final predictions, the schedule of `optimizer` is shortened once
    the second epoch has shown what one takes, so that training ends on its smallest learning rate. Each session plans
    anew with the hours it has.

    Args:
        run: as `start` returns it.
        model: inputs as in the batches, outputs probabilities `(B, num_classes)`.
        train: returns endless batches from the one of that number on, as from `train_batches`.
        val: the validation split in batches of at most `eval_batch_size`; `eval_batches(run, "val")` unless given.
        verbose: 1 for a progress bar an epoch, 0 for none, as in Keras.

    Returns:
        For each of loss, accuracy, val_loss, val_accuracy, val_macro_f1, seconds (of training alone), compiled (1
        where those include compilation, in the first epoch of a session, else 0) and planned_epochs (of the whole
        training, as it was planned then), one number an epoch. Without images in val there are no scores on it.

    Raises:
        FlowersError: another process trains in the same folder, or it holds a longer run.
    """
    _refuse_to_replace(run)
    steps, clock, first = run.steps_per_epoch, _Clock(), train(start=0)
    val = eval_batches(run, "val") if val is None else val
    with exclusive_lock(run.config.folder / ".lock", partial(_refuse_second, run)), prepared(model, first, run.device):
        checkpoint = Checkpoint(run, model, first)
        del first  # it may hold all features
        history = checkpoint.read()
        done = len(history.get("loss", []))
        if done:
            print(f"Resuming after epoch {done} ({resume_file(run.config)}).")
        model.fit(
            train(start=done * steps),
            steps_per_epoch=steps,
            epochs=run.config.epochs if done < planned_epochs(run, history) else done,
            initial_epoch=done,
            shuffle=False,  # the pipeline does that
            verbose=verbose,
            callbacks=[clock, _EpochEnd(run, val, checkpoint, history, clock)],
        )
    return history


def _refuse_second(run: Run, process: str) -> None:
    folder = run.config.folder
    raise FlowersError(f"process {process} trains in `{folder}` too; let it end, or give this run another name")


def longer_run(run: Run, num_images: int) -> str | None:
    """Return in a few words the run of this name that trained on more than so many images, None if there is none."""
    try:
        record = read_record(run.config.folder / "run.json")
        if record["smoke_test"] or record["epochs"] * record["data"]["train"] <= num_images:
            return None
        scored = ", macro F1 {val_macro_f1:.4f} on val" if "val_macro_f1" in record else ""
        return ("{epochs} epochs of {data[train]:,} images" + scored).format(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forced() -> bool:
    """Return whether a run may replace a longer one, as `FLOWERS_FORCE` says."""
    return os.environ.get("FLOWERS_FORCE") == "1"


def _refuse_to_replace(run: Run) -> None:
    longer = longer_run(run, run.num_images)
    if longer and not forced():
        raise FlowersError(
            f"`{run.config.folder}` holds a longer run ({longer}), which this one of {run.config.epochs} epochs of "
            f"{run.flowers.count('train'):,} images would replace; run it with --out elsewhere, change its NAME, or "
            "use `flowerlib run --force` (FLOWERS_FORCE=1)"
        )


def time_epochs(run: Run, model: keras.Model, train: Batches) -> list[float]:
    """Train a compiled model and return the seconds of each epoch, without validation; the first includes compilation.

    Arguments as in `fit`.
    """
    clock, batches = _Clock(), train(start=0)
    with prepared(model, batches, run.device):
        options = {"steps_per_epoch": run.steps_per_epoch, "epochs": run.config.epochs, "shuffle": False}
        model.fit(batches, callbacks=[clock], **options)
    return clock.seconds


def best_epoch(history: History) -> int | None:
    """Return the epoch, from 1, with the best macro F1 on val; None where nothing is val."""
    return int(np.argmax(history["val_macro_f1"])) + 1 if "val_macro_f1" in history else None
