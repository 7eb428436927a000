"""Every choice of a training run, and how it is fitted to the device."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from flowerlib.accelerator import Device
from flowerlib.config import LESSER, FlowersError
from flowerlib.data import Flowers


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
