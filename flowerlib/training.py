"""Plan a run and train: the schedule, validation after each epoch, resume, the time budget."""

import json
import math
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from flowerlib import __version__, fused, predictions
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import LESSER, FlowersError, locked, set_aside, written_whole
from flowerlib.data import Flowers

History = dict[str, list[float]]
Batches = Callable[..., tf.data.Dataset]  # with `start`, the number of a batch: endless batches from that one on
ROUNDING = 1.0  # of 255
KEEP_EVERY = 120.0  # seconds of training that a run which is killed may lose, where epochs are shorter


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
    def submission(self) -> Path:
        """Where the run leaves its answers for the test images; those of `LESSER` never take the place of others."""
        kind = next((kind for kind in LESSER if self.name.endswith(kind)), "")
        return Path(f"submission{kind}.csv")

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


def plan(device: Device, *, shrink: bool = True, lr_batch_size: int | None = None, **choices: object) -> Run:
    """Fit a run's choices to the device: `batch_size`, given for one replica, becomes the global one.

    On a CPU a run that may `shrink` becomes a rehearsal: the real network, small images, few steps, a name of its own,
    one printed line that says so. `FLOWERS_PROFILE`, `full` or `rehearsal`, decides otherwise.

    Args:
        device: what it runs on.
        shrink: whether it may become a rehearsal.
        lr_batch_size: the global batch size for which `peak_lr` is given. For another one it is scaled by the square
            root of their ratio, as fits Adam and its kin (Malladi and others, arXiv 2205.10287); unless given, never.
        **choices: as `Run` has them.

    Raises:
        FlowersError: `FLOWERS_PROFILE` has another value, or no epoch is left after the warm-up.
    """
    run = Run(**choices)
    if run.epochs <= run.warmup_epochs:
        raise FlowersError(f"`epochs` (={run.epochs}) must be more than `warmup_epochs` (={run.warmup_epochs})")
    profile = os.environ.get("FLOWERS_PROFILE") or ("rehearsal" if device.kind == "cpu" else "full")
    if profile not in ("full", "rehearsal"):
        raise FlowersError(f"`FLOWERS_PROFILE` (={profile}) must be full or rehearsal, or unset to go by the device")
    run = replace(run, batch_size=run.batch_size * device.num_replicas)
    if shrink and profile == "rehearsal":
        return _rehearsal(run, device)
    if lr_batch_size:
        run = replace(run, peak_lr=run.peak_lr * math.sqrt(run.batch_size / lr_batch_size))
    return run


def _rehearsal(run: Run, device: Device) -> Run:
    """The same run, shrunk. 72 px is the least that all five networks take (Xception's limit is 71)."""
    shrunk = {"image_size": 72, "eval_size": None, "batch_size": 4 * device.num_replicas, "epochs": 2, "steps": 2}
    print(
        f"REHEARSAL on {device.kind.upper()}: {shrunk['epochs']} epochs of {shrunk['steps']} steps at "
        f"{shrunk['image_size']} px, to show that everything works; no number below is a result. "
        "FLOWERS_PROFILE=full trains in earnest."
    )
    return replace(run, **shrunk, warmup_epochs=1, rehearsal=True, name=f"{run.name}-rehearsal")


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
        self, val: tf.data.Dataset, run: Run, what: dict, history: History, clock: _Clock, hours: float
    ) -> None:
        super().__init__()
        self.val, self.run, self.what, self.history, self.clock = val, run, what, history, clock
        self.kept, self.deadline = time.monotonic(), time.monotonic() + 3600 * hours

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        said = predictions.predict(self.model, self.val, self.run.eval_batch_size)
        logs |= {f"val_{name}": value for name, value in said.scores().items()}
        compiled = len(self.clock.seconds) == 1  # the first epoch of a session
        for name, value in {**logs, "seconds": self.clock.seconds[-1], "compiled": compiled}.items():
            self.history.setdefault(name, []).append(float(value))
        now = time.monotonic()
        if now + 1.2 * (now - self.clock.began) > self.deadline and epoch + 1 < self.run.epochs:
            print(f"Stopping after epoch {epoch + 1}: another would not fit into the time budget.")
            self.model.stop_training = True
        last = self.model.stop_training or epoch + 1 == self.run.epochs
        if not self.run.rehearsal and (last or now > self.kept + KEEP_EVERY):
            _keep(self.model, self.what, self.run, self.history)
            self.kept = now


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
    train: Batches,
    val: tf.data.Dataset,
    run: Run,
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
    _refuse_to_replace(run, flowers)
    clock, first = _Clock(), train(start=0)
    with locked(run.folder / ".lock", partial(_refuse_second, run)), prepared(model, first, device):
        what = _what(model, first, run, flowers)
        del first  # it may hold all features
        history = _resume(model, what, run)
        done = len(history.get("loss", []))
        if done:
            print(f"Going on after epoch {done}, found in {resume_file(run)}.")
        model.fit(
            train(start=done * steps),
            steps_per_epoch=steps,
            epochs=run.epochs,
            initial_epoch=done,
            shuffle=False,  # the pipeline does that
            verbose=verbose,
            callbacks=[clock, _EpochEnd(val, run, what, history, clock, hours)],
        )
    return history


def _refuse_second(run: Run, process: str) -> None:
    raise FlowersError(f"process {process} trains in `{run.folder}` too; let it end, or give this run another name")


def longer_run(run: Run, images: int) -> str | None:
    """Return in a few words the run of this name that trained on more than so many images, None if there is none."""
    try:
        record = json.loads((run.folder / "run.json").read_text())
        if record["rehearsal"] or record["epochs"] * record["data"]["train"] <= images:
            return None
        return "{epochs} epochs of {data[train]:,} images, macro F1 {val_macro_f1:.4f} on val".format(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forced() -> bool:
    """Return whether a run may replace a longer one, as `FLOWERS_FORCE` says."""
    return os.environ.get("FLOWERS_FORCE") == "1"


def _refuse_to_replace(run: Run, flowers: Flowers) -> None:
    longer = longer_run(run, run.epochs * flowers.count("train"))
    if longer and not forced():
        raise FlowersError(
            f"`{run.folder}` holds a longer run ({longer}), which this one of {run.epochs} epochs of "
            f"{flowers.count('train'):,} images would replace; run it with --out elsewhere, change its NAME, or use "
            "`flowerlib run --force` (FLOWERS_FORCE=1)"
        )


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


def _what(model: keras.Model, train: tf.data.Dataset, run: Run, flowers: Flowers) -> dict[str, object]:
    """What a kept state belongs to. The first batch tells how images are decoded, varied and mixed."""
    return {
        "choices": asdict(run),
        "data": flowers.fingerprint,
        "classes": list(flowers.classes),
        "network": [[*variable.shape] for variable in _state(model)],
        "first batch": [_coarsely(part) for part in next(iter(train))],
        "flowerlib": __version__,
    }


def _coarsely(part: tf.Tensor) -> list:
    """The first rows of a batch; of images 4 x 4 means, in which processors differ by less than `ROUNDING`."""
    rows = tf.cast(part[:8], tf.float32)
    return (tf.image.resize(rows, (4, 4), antialias=True) if len(rows.shape) == 4 else rows[:, :200]).numpy().tolist()


def _is_same(one: object, other: object) -> bool:
    """Whether two parts of `_what` agree; numbers that follow from images may be rounded."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return abs(one - other) <= ROUNDING if isinstance(one, float) and isinstance(other, float) else one == other


def _keep(model: keras.Model, what: dict, run: Run, history: History) -> None:
    arrays = {f"{index}": keras.ops.convert_to_numpy(value) for index, value in enumerate(_state(model))}
    with written_whole(resume_file(run)) as temporary:
        np.savez(temporary, what=json.dumps(what), history=json.dumps(history), **arrays)


def _resume(model: keras.Model, what: dict, run: Run) -> History:
    """Load what was kept of this training, if there is something, into a prepared model; return history."""
    if not resume_file(run).exists():
        return {}
    try:
        with open(resume_file(run), "rb") as file, np.load(file) as kept:
            theirs, history = json.loads(str(kept["what"])), json.loads(str(kept["history"]))
            differs = [name for name in what if not _is_same(theirs.get(name), what[name])]
            values = [] if differs else [kept[f"{index}"] for index in range(len(_state(model)))]
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        differs = [f"bytes than were written, as it seems ({error})"]
    if differs:
        aside, other = set_aside(resume_file(run)).name, ", ".join(differs)
        print(f"`{resume_file(run)}` has other {other}; it is set aside as `{aside}`, training begins anew.")
        return {}
    for variable, value in zip(_state(model), values, strict=True):
        variable.assign(value)
    return history
