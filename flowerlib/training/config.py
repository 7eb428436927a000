"""The configuration of a training run, made of a notebook's parameters and fitted to the device."""

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from flowerlib.accelerator import Device
from flowerlib.config import MINOR, SMOKE_TEST, FlowersError, run_name

TRAIN_ON = ("train", "train+val")


@dataclass(frozen=True)
class TrainConfig:
    """All hyperparameters of one training run.

    Attributes:
        name: of the folder `runs/<name>/`.
        backbone: a row of `networks.BACKBONES`; those of `networks`, joined by +.
        image_size: side of the training images, in pixels.
        batch_size: global, over all replicas.
        epochs: passes over the training images.
        warmup_epochs: the first of them, in which the learning rate climbs from zero to `peak_lr`.
        peak_lr: the largest learning rate.
        weight_decay: of AdamW.
        fine_tune: whether the backbone is trained too, or only the head (feature extraction).
        first_trainable_layer: the name of the first layer that is trained; None for all.
        head_lr_multiplier: the learning rate of the new last layer over that of all others.
        label_smoothing: fraction of each label spread evenly over all classes.
        dropout: fraction of the features that the head drops in a training step.
        mix: `cutmix`, `mixup` or `none`.
        mix_probability: the fraction of batches that `mix` mixes.
        class_weights: weights of the loss against class imbalance: `none`, `balanced` or `sqrt`.
        sampling: how often images come, against class imbalance: `uniform`, `balanced` or `sqrt`.
        ema: decay of the exponential moving average of the weights, such as 0.999, that is kept in the end; 0 for none.
        eval_size: side of the images in validation, in pixels (FixRes); None for `image_size`.
        tta_sizes: test-time augmentation, the sides at which the final predictions are made; empty for `eval_size`.
        tta_flip: test-time augmentation, whether every image is predicted mirrored too.
        networks: feature extraction, rows of `networks.BACKBONES` whose features stand side by side.
        sizes: feature extraction, the sides to which they get every image resized, in pixels.
        num_augmented_views: feature extraction, the augmented views of each training image beside the original ones.
        extract_batch_size: feature extraction, the images that a replica processes at once.
        hours: the time budget; None for no limit.
        steps: steps an epoch; None for all training images.
        fold: cross-validation, the part of the labelled images, train and val together, that is val, from 0; None for
            the dataset's own val.
        folds: how many parts there are.
        train_on: `train`, or `train+val`: all labelled images, for a final submission that has no score.
        seed: of everything random, and of the parts.
        smoke_test: shrunk to show that everything works; its scores are meaningless.
    """

    name: str
    backbone: str
    image_size: int
    batch_size: int
    epochs: int
    warmup_epochs: int = 1
    peak_lr: float = 1e-3
    weight_decay: float = 0.05
    fine_tune: bool = True
    first_trainable_layer: str | None = None
    head_lr_multiplier: float = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    mix: str = "none"
    mix_probability: float = 1.0
    class_weights: str = "none"
    sampling: str = "uniform"
    ema: float = 0.0
    eval_size: int | None = None
    tta_sizes: tuple[int, ...] = ()
    tta_flip: bool = False
    networks: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    num_augmented_views: int = 0
    extract_batch_size: int = 32
    hours: float | None = None
    steps: int | None = None
    fold: int | None = None
    folds: int = 5
    train_on: str = "train"
    seed: int = 0
    smoke_test: bool = False

    def __post_init__(self) -> None:
        if self.epochs <= self.warmup_epochs:
            raise FlowersError(f"`epochs` (={self.epochs}) must be more than `warmup_epochs` (={self.warmup_epochs})")
        if self.fold is not None and (self.folds < 2 or self.fold not in range(self.folds)):
            raise FlowersError(f"`fold` (={self.fold}) must be one of 0 to `folds` - 1 (={self.folds - 1}), or None")
        if self.train_on not in TRAIN_ON:
            raise FlowersError(f"`train_on` (={self.train_on!r}) must be one of {', '.join(TRAIN_ON)}")
        if self.fold is not None and self.train_on != "train":
            raise FlowersError(f"`fold` (={self.fold}) needs `train_on` train: a fold judges by images it leaves out")

    @property
    def folder(self) -> Path:
        """Where the run leaves its files, below the folder the notebook runs in."""
        return Path("runs") / self.name

    @property
    def submission(self) -> Path:
        """The submission file; that of a smoke test or an unfinished run has a name of its own."""
        minor = MINOR.fullmatch(self.name)
        suffix = minor["suffix"].replace("-", "_") if minor else ""
        return Path(f"submission{suffix}.csv")

    @property
    def eval_batch_size(self) -> int:
        """The global batch size without gradients: four times as many images fit into memory."""
        return 4 * self.batch_size

    @property
    def stored_size(self) -> int | None:
        """The image size to ask `data.find` for: a smoke test takes the smallest there is and shrinks it."""
        return None if self.smoke_test else self.image_size


def configure(parameters: Mapping[str, object], device: Device) -> TrainConfig:
    """Make a configuration of a notebook's parameters, and fit it to the device.

    On a CPU a run becomes a smoke test: the real network, small images, few steps, a name of its own, one printed line
    that says so. `FLOWERS_PROFILE`, `full` or `smoke`, decides otherwise.

    Args:
        parameters: the notebook's variables, as `globals()` returns them. `PEAK_LR` becomes `peak_lr`, and so on; names
            that no field of `TrainConfig` has are passed over, but for these: `BATCH_PER_REPLICA`, in place of
            `BATCH_SIZE`, is multiplied by the number of replicas. `LR_BATCH_SIZE` is the global batch size for which
            `PEAK_LR` is given; for another one it is scaled by the square root of their ratio, as fits Adam and its kin
            (Malladi and others, arXiv 2205.10287). `SHRINK = False` never becomes a smoke test. `NETWORKS` stands in
            place of `BACKBONE`.
        device: what it runs on.

    Raises:
        FlowersError: a parameter without a default is missing, `FLOWERS_PROFILE` has another value, or no epoch is left
            after the warm-up.
    """
    given: dict[str, Any] = {
        name.lower(): tuple(value) if isinstance(value, list) else value  # as `flowerlib run -p` writes several values
        for name, value in parameters.items()
        if name.isupper()
    }
    replicas = device.num_replicas
    if "networks" in given:
        given["backbone"] = "+".join(given["networks"])
    if "batch_per_replica" in given:
        given["batch_size"] = given["batch_per_replica"] * replicas
    config = TrainConfig(**_hyperparameters(given))
    name = run_name(config.name, config.fold, config.train_on)
    config = replace(config, name=name, batch_size=max(config.batch_size // replicas, 1) * replicas)
    if given.get("shrink", True) and profile(device) == "smoke":
        return _smoke_test(config, device)
    if "lr_batch_size" in given:
        config = replace(config, peak_lr=config.peak_lr * math.sqrt(config.batch_size / given["lr_batch_size"]))
    return config


def _hyperparameters(given: dict[str, Any]) -> dict[str, Any]:
    """Those that are fields of `TrainConfig`; none of those without a default may be missing."""
    for field in fields(TrainConfig):
        if field.default is MISSING and field.name not in given:
            raise FlowersError(f"the parameter `{field.name.upper()}` is missing; set it in the cell of parameters")
    return {field.name: given[field.name] for field in fields(TrainConfig) if field.name in given}


def profile(device: Device) -> str:
    """Return `full` or `smoke`, as `FLOWERS_PROFILE` says, or else as the device can do.

    Raises:
        FlowersError: it has another value.
    """
    chosen = os.environ.get("FLOWERS_PROFILE") or ("smoke" if device.kind == "cpu" else "full")
    chosen = {"rehearsal": "smoke"}.get(chosen, chosen)  # its name before version 0.2
    if chosen not in ("full", "smoke"):
        raise FlowersError(f"`FLOWERS_PROFILE` (={chosen}) must be full or smoke, or unset to go by the device")
    return chosen


def _smoke_test(config: TrainConfig, device: Device) -> TrainConfig:
    """The same run, shrunk. 72 px is the least that all networks take (Xception's limit is 71)."""
    shrunk: dict[str, Any] = {"image_size": 72, "batch_size": 4 * device.num_replicas, "epochs": 2, "steps": 2}
    print(
        f"SMOKE TEST on {device.kind.upper()} ({shrunk['epochs']} epochs of {shrunk['steps']} steps, "
        f"{shrunk['image_size']} px): ignore all scores. Full training: flowerlib run --full, or FLOWERS_PROFILE=full."
    )
    plain = replace(config, eval_size=None, tta_sizes=(), tta_flip=False, warmup_epochs=1, num_augmented_views=0)
    sizes = (shrunk["image_size"],) if config.sizes else ()
    return replace(plain, **shrunk, sizes=sizes, smoke_test=True, name=f"{config.name}{SMOKE_TEST}")
