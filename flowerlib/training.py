"""Plan a run and train: the schedule, validation after each epoch, resume, the time budget."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from flowerlib import fused, predictions
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import FlowersError, written_whole
from flowerlib.data import Flowers

History = dict[str, list[float]]


@dataclass(frozen=True)
class Run:
    """Every choice of one training run.

    Attributes:
        name: names the folder `runs/<name>/`.
        backbone: a row of `backbones.BACKBONES`.
        retrain: whether the backbone is trained too, or only the head.
        image_size: side of the images the network sees, in pixels.
        batch_size: global, over all replicas.
        epochs: passes over the training images.
        warmup_epochs: of them, those in which the learning rate climbs from zero to `peak_lr`.
        peak_lr: the largest learning rate.
        weight_decay: of AdamW.
        label_smoothing: share of each label spread evenly over all classes.
        dropout: share of the features that the head does not see in a training step.
        mix: `cutmix`, `mixup` or `none`.
        seed: of everything random.
        rehearsal: shrunk to show that everything works; its numbers mean nothing.
        steps: steps an epoch; None for all training images.
        eval_size: side of the images that are judged, in pixels; None for `image_size`.
        head_times: the learning rate of the last layer, which is new, over that of all others.
        mixed: the share of batches that `mix` mixes.
        frozen_before: the first layer that is trained; None for all.
    """

    name: str
    backbone: str
    retrain: bool
    image_size: int
    batch_size: int
    epochs: int
    warmup_epochs: int
    peak_lr: float
    weight_decay: float
    label_smoothing: float
    dropout: float
    mix: str
    seed: int
    rehearsal: bool = False
    steps: int | None = None
    eval_size: int | None = None
    head_times: float = 1.0
    mixed: float = 1.0
    frozen_before: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run leaves its files, below the folder the notebook runs in."""
        return Path("runs") / self.name

    @property
    def eval_batch_size(self) -> int:
        """The global batch size without gradients: four times as many images fit into memory."""
        return 4 * self.batch_size

    @property
    def stored_size(self) -> int | None:
        """The image size to ask `data.find` for: a rehearsal takes the smallest there is and shrinks it."""
        return None if self.rehearsal else self.image_size

    def steps_per_epoch(self, flowers: Flowers) -> int:
        """Return how many batches make an epoch: all whole ones, or a rehearsal's few.

        Raises:
            FlowersError: there is not one whole batch.
        """
        if not (whole := flowers.count("train") // self.batch_size):
            raise FlowersError(
                f"`batch_size` (={self.batch_size}) must be at most the {flowers.count('train')} training images"
            )
        return self.steps or whole


def plan(device: Device, *, shrink: bool = True, **choices: object) -> Run:
    """Fit a run's choices to the device: `batch_size`, given for one replica, becomes the global one.

    On a CPU a run that may `shrink` becomes a rehearsal: the real network, small images, few steps, one printed line
    that says so. `FLOWERS_PROFILE`, `full` or `rehearsal`, decides otherwise.

    Raises:
        FlowersError: `FLOWERS_PROFILE` has another value, or no epoch is left after the warm-up.
    """
    run = Run(**choices)
    if run.epochs <= run.warmup_epochs:
        raise FlowersError(f"`epochs` (={run.epochs}) must be more than `warmup_epochs` (={run.warmup_epochs})")
    profile = os.environ.get("FLOWERS_PROFILE") or ("rehearsal" if device.kind == "cpu" else "full")
    if profile not in ("full", "rehearsal"):
        raise FlowersError(f"`FLOWERS_PROFILE` (={profile}) must be full or rehearsal, or unset to go by the device")
    if shrink and profile == "rehearsal":
        # 72 px is the least that all five networks take (Xception's limit is 71).
        run = replace(
            run, image_size=72, eval_size=None, batch_size=4, epochs=2, warmup_epochs=1, steps=2, rehearsal=True
        )
        print(
            f"REHEARSAL on {device.kind.upper()}: {run.epochs} epochs of {run.steps} steps at {run.image_size} px, to "
            "show that everything works; no number below is a result. FLOWERS_PROFILE=full trains in earnest."
        )
    return replace(run, batch_size=run.batch_size * device.num_replicas)


def learning_rate(run: Run, flowers: Flowers) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate as a pure function of the step: a straight climb to the peak, then half a cosine to 0.

    The climb keeps the first, large gradients of a new head from spoiling a pretrained backbone.
    """
    steps = run.steps_per_epoch(flowers)
    warmup = run.warmup_epochs * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0, run.epochs * steps - warmup, warmup_target=run.peak_lr, warmup_steps=warmup
    )


class _AdamW(keras.optimizers.AdamW):
    """AdamW whose last two variables, the head's, learn so many times as fast; all decay alike."""

    def __init__(self, *arguments: object, head_times: float, **options: object) -> None:
        super().__init__(*arguments, name="adamw", **options)
        self.head_times = head_times

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        of_head = self._get_variable_index(variable) >= len(self._trainable_variables) - 2
        super().update_step(gradient, variable, learning_rate * (self.head_times if of_head else 1.0))


def optimizer(run: Run, flowers: Flowers) -> keras.optimizers.Optimizer:
    """Return AdamW over `learning_rate`; biases and normalisation's scales, which cannot over-fit, do not decay."""
    adamw = _AdamW(learning_rate(run, flowers), weight_decay=run.weight_decay, head_times=run.head_times)
    adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return adamw


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
        self, val: tf.data.Dataset, run: Run, flowers: Flowers, history: History, clock: _Clock, hours: float
    ) -> None:
        super().__init__()
        self.val, self.run, self.flowers, self.history, self.clock = val, run, flowers, history, clock
        self.deadline = time.monotonic() + 3600 * hours

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        said = predictions.predict(self.model, self.val, self.run.eval_batch_size)
        logs |= {f"val_{name}": value for name, value in said.scores().items()}
        compiled = len(self.clock.seconds) == 1  # the first epoch of a session
        for name, value in {**logs, "seconds": self.clock.seconds[-1], "compiled": compiled}.items():
            self.history.setdefault(name, []).append(float(value))
        if not self.run.rehearsal:
            _keep(self.model, self.run, self.flowers, self.history)
        whole_epoch = time.monotonic() - self.clock.began
        if time.monotonic() + 1.2 * whole_epoch > self.deadline:
            print(f"Stopping after epoch {epoch + 1}: another would not fit into the time budget.")
            self.model.stop_training = True


@contextmanager
def prepared(model: keras.Model, train: tf.data.Dataset, device: Device) -> Iterator[None]:
    """Within it, `model.fit(train)` begins sooner and takes quicker steps, to the same weights.

    The variables of optimiser and metrics are made now. On TensorFlow Keras would make them while it traces the first
    step, and TensorFlow would then trace that step a second time. For the steps see `fused.normalisation`.
    """
    with device.scope():
        model._symbolic_build(data_batch=train.element_spec)
    with fused.normalisation(model):
        yield


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    run: Run,
    flowers: Flowers,
    device: Device,
    *,
    hours: float = float("inf"),
    verbose: int = 1,
) -> History:
    """Train a compiled model, measuring log loss, accuracy and macro F1 on val after each epoch.

    A run that was stopped goes on after its last whole epoch, as if it had not been stopped: each epoch leaves the
    weights and the optimiser's state in `runs/<name>/resume.npz`, and the batches already used are skipped.

    Args:
        model: inputs as in the batches, outputs probabilities `(B, num_classes)`.
        train: endless batches, as from `data.train_batches`.
        val: the validation split in batches of `run.eval_batch_size`, as from `data.eval_batches`.
        run: the choices; epochs, batch size and folder are used here.
        flowers: the dataset; its count gives the steps an epoch.
        device: what `model` was built on.
        hours: the time budget; no epoch begins that would not end within it.
        verbose: 1 for a progress bar an epoch, 0 for none, as in Keras.

    Returns:
        For each of loss, accuracy, val_loss, val_accuracy, val_macro_f1, seconds (of training alone) and compiled (1
        where those include compilation, in the first epoch of a session, else 0), one number an epoch.
    """
    steps = run.steps_per_epoch(flowers)
    clock = _Clock()
    with prepared(model, train, device):
        history = _resume(model, run, flowers)
        done = len(history.get("loss", []))
        if done:
            print(f"Going on after epoch {done}, found in {resume_file(run)}.")
        model.fit(
            train.skip(done * steps),
            steps_per_epoch=steps,
            epochs=run.epochs,
            initial_epoch=done,
            shuffle=False,  # the pipeline does that
            verbose=verbose,
            callbacks=[clock, _EpochEnd(val, run, flowers, history, clock, hours)],
        )
    return history


def time_epochs(model: keras.Model, train: tf.data.Dataset, run: Run, flowers: Flowers, device: Device) -> list[float]:
    """Train a compiled model and return the seconds of each epoch, without validation; the first includes compilation.

    Arguments as in `fit`.
    """
    clock = _Clock()
    steps = run.steps_per_epoch(flowers)
    with prepared(model, train, device):
        model.fit(train, steps_per_epoch=steps, epochs=run.epochs, shuffle=False, callbacks=[clock])
    return clock.seconds


def best_epoch(history: History) -> int:
    """Return the epoch, from 1, with the best macro F1 on val."""
    return int(np.argmax(history["val_macro_f1"])) + 1


def resume_file(run: Run) -> Path:
    """Return where `fit` keeps what a resume needs, until the run's record is written."""
    return run.folder / "resume.npz"


def _state(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, the states of random layers such as dropout, the optimiser's moments."""
    return [*model.variables, *model.optimizer.variables]


def _what(run: Run, flowers: Flowers) -> str:
    """What a kept state belongs to: these choices on these data, and nothing else."""
    return json.dumps([asdict(run), flowers.fingerprint, flowers.classes])


def _keep(model: keras.Model, run: Run, flowers: Flowers, history: History) -> None:
    arrays = {f"{index}": keras.ops.convert_to_numpy(value) for index, value in enumerate(_state(model))}
    with written_whole(resume_file(run)) as temporary:
        np.savez(temporary, what=_what(run, flowers), history=json.dumps(history), **arrays)


def _resume(model: keras.Model, run: Run, flowers: Flowers) -> History:
    """Load the last whole epoch of this run on these data, if there is one, into a prepared model; return history."""
    if not resume_file(run).exists():
        return {}
    with np.load(resume_file(run)) as kept:
        if str(kept["what"]) != _what(run, flowers):
            return {}
        for index, variable in enumerate(_state(model)):
            variable.assign(kept[f"{index}"])
        return json.loads(str(kept["history"]))
