"""The configuration of a training run, and how it is fitted to the device."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from flowerlib.accelerator import Device
from flowerlib.config import MINOR_SUFFIXES, FlowersError
from flowerlib.data import Flowers


@dataclass(frozen=True)
class TrainConfig:
    """All hyperparameters of one training run.

    Attributes:
        name: of the folder `runs/<name>/`.
        backbone: a row of `networks.BACKBONES`.
        fine_tune: whether the backbone is trained too, or only the head (feature extraction).
        image_size: side of the training images, in pixels.
        batch_size: global, over all replicas.
        epochs: passes over the training images.
        warmup_epochs: the first of them, in which the learning rate climbs from zero to `peak_lr`.
        peak_lr: the largest learning rate.
        weight_decay: of AdamW.
        label_smoothing: fraction of each label spread evenly over all classes.
        dropout: fraction of the features that the head drops in a training step.
        mix: `cutmix`, `mixup` or `none`.
        seed: of everything random.
        smoke_test: shrunk to show that everything works; its scores are meaningless.
        steps: steps an epoch; None for all training images.
        eval_size: side of the images in evaluation, in pixels (FixRes); None for `image_size`.
        head_lr_multiplier: the learning rate of the new last layer over that of all others.
        mix_probability: the fraction of batches that `mix` mixes.
        first_trainable_layer: the name of the first layer that is trained; None for all.
    """

    name: str
    backbone: str
    fine_tune: bool
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
    smoke_test: bool = False
    steps: int | None = None
    eval_size: int | None = None
    head_lr_multiplier: float = 1.0
    mix_probability: float = 1.0
    first_trainable_layer: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run leaves its files, below the folder the notebook runs in."""
        return Path("runs") / self.name

    @property
    def submission(self) -> Path:
        """The submission file; that of a smoke test or an unfinished run has a name of its own."""
        kind = next((kind for kind in MINOR_SUFFIXES if self.name.endswith(kind)), "")
        return Path(f"submission{kind.replace('-', '_')}.csv")

    @property
    def eval_batch_size(self) -> int:
        """The global batch size without gradients: four times as many images fit into memory."""
        return 4 * self.batch_size

    @property
    def stored_size(self) -> int | None:
        """The image size to ask `data.find` for: a smoke test takes the smallest there is and shrinks it."""
        return None if self.smoke_test else self.image_size

    def steps_per_epoch(self, flowers: Flowers) -> int:
        """Return how many batches make an epoch: all whole ones, or a smoke test's few.

        Raises:
            FlowersError: there is not one whole batch.
        """
        if not (whole := flowers.count("train") // self.batch_size):
            raise FlowersError(
                f"`batch_size` (={self.batch_size}) must be at most the {flowers.count('train')} training images"
            )
        return self.steps or whole


def configure(
    device: Device, *, shrink: bool = True, lr_batch_size: int | None = None, **hyperparameters: object
) -> TrainConfig:
    """Fit a configuration to the device: `batch_size`, given for one replica, becomes the global one.

    On a CPU a run that may `shrink` becomes a smoke test: the real network, small images, few steps, a name of its own,
    one printed line that says so. `FLOWERS_PROFILE`, `full` or `smoke`, decides otherwise.

    Args:
        device: what it runs on.
        shrink: whether it may become a smoke test.
        lr_batch_size: the global batch size for which `peak_lr` is given. For another one it is scaled by the square
            root of their ratio, as fits Adam and its kin (Malladi and others, arXiv 2205.10287); unless given, never.
        **hyperparameters: as `TrainConfig` has them.

    Raises:
        FlowersError: `FLOWERS_PROFILE` has another value, or no epoch is left after the warm-up.
    """
    config = TrainConfig(**hyperparameters)
    if config.epochs <= config.warmup_epochs:
        raise FlowersError(f"`epochs` (={config.epochs}) must be more than `warmup_epochs` (={config.warmup_epochs})")
    profile = os.environ.get("FLOWERS_PROFILE") or ("smoke" if device.kind == "cpu" else "full")
    if profile not in ("full", "smoke"):
        raise FlowersError(f"`FLOWERS_PROFILE` (={profile}) must be full or smoke, or unset to go by the device")
    config = replace(config, batch_size=config.batch_size * device.num_replicas)
    if shrink and profile == "smoke":
        return _smoke_test(config, device)
    if lr_batch_size:
        config = replace(config, peak_lr=config.peak_lr * math.sqrt(config.batch_size / lr_batch_size))
    return config


def _smoke_test(config: TrainConfig, device: Device) -> TrainConfig:
    """The same run, shrunk. 72 px is the least that all five networks take (Xception's limit is 71)."""
    shrunk = {"image_size": 72, "eval_size": None, "batch_size": 4 * device.num_replicas, "epochs": 2, "steps": 2}
    print(
        f"SMOKE TEST on {device.kind.upper()}: {shrunk['epochs']} epochs of {shrunk['steps']} steps at "
        f"{shrunk['image_size']} px, to show that everything works; no number below is a result. "
        "FLOWERS_PROFILE=full trains in earnest."
    )
    return replace(config, **shrunk, warmup_epochs=1, smoke_test=True, name=f"{config.name}-smoke-test")
