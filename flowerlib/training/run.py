"""A training run under way: its configuration, its data and its device, and what follows from the three."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from flowerlib import accelerator, data, figures, predictions
from flowerlib.accelerator import Device, keras, tf
from flowerlib.augmentation import MIXES, with_probability
from flowerlib.config import FlowersError
from flowerlib.data import Augment, Flowers
from flowerlib.networks import backbones, folding
from flowerlib.predictions import Predictions
from flowerlib.training.config import TrainConfig, configure

SMOKE_TEST_IMAGES = 64  # of each split
Batches = Callable[..., tf.data.Dataset]  # with `start`, the number of a batch: endless batches from that one on


@dataclass(frozen=True)
class Run:
    """What the functions of this wing need to know.

    Attributes:
        config: the hyperparameters.
        flowers: the dataset.
        device: what the run is computed on.
    """

    config: TrainConfig
    flowers: Flowers
    device: Device

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in label order."""
        return self.flowers.classes

    @property
    def weights(self) -> Literal["pretrained", "random"]:
        """What `networks.load` begins from: pretrained weights; a smoke test takes what needs no download."""
        names = (self.config.networks or (self.config.backbone,)) if self.config.smoke_test else ()
        available = {backbones.available_weights(name) for name in names}
        return "random" if "random" in available else "pretrained"

    @property
    def steps_per_epoch(self) -> int:
        """How many batches make an epoch: all whole ones, or a smoke test's few.

        Raises:
            FlowersError: there is not one whole batch.
        """
        batch_size, count = self.config.batch_size, self.flowers.count("train")
        if batch_size > count:
            raise FlowersError(f"`batch_size` (={batch_size}) must be at most the {count} training images")
        return self.config.steps or count // batch_size

    @property
    def num_images(self) -> int:
        """How many training images the network processes in the whole run."""
        return self.config.epochs * self.flowers.count("train")

    def __str__(self) -> str:
        return f"{self.device}\n{self.flowers}"

    def with_config(self, **hyperparameters: Any) -> "Run":
        """Return the same run with some hyperparameters replaced."""
        return replace(self, config=replace(self.config, **hyperparameters))


def start(parameters: Mapping[str, object]) -> Run:
    """Take hold of the device, find and check the data, print both: what a training notebook does first.

    Every record is read and decoded once, so that a damaged file is named now and not after an hour of training. In a
    smoke test every figure gets a watermark.

    Args:
        parameters: the notebook's variables, as in `configure`. A batch that is larger than the data allow is made
            smaller, with a line that says so.

    Raises:
        FlowersError: as `accelerator.setup`, `configure`, `data.find` and `data.check` raise it.
    """
    device = accelerator.setup()
    config = configure(parameters, device)
    keras.utils.set_random_seed(config.seed)
    figures.watermark("SMOKE TEST" if config.smoke_test else None)
    flowers = data.find(config.stored_size, nearest=True)
    data.check(flowers)
    flowers = replace(flowers, limit=SMOKE_TEST_IMAGES if config.smoke_test else None)
    run = _with_fitting_batch(Run(config, _divided(flowers, config), device))
    print(run)
    return run


def _divided(flowers: Flowers, config: TrainConfig) -> Flowers:
    """Return the dataset with what the configuration trains on as train, and what it judges by as val."""
    if config.train_on == "train+val":
        print("All labelled images are train, none is val: this run has no score.")
        return data.train_on_all(flowers)
    if config.fold is None:
        return flowers
    print(f"Part {config.fold} of {config.folds} of the labelled images is val, the others are train.")
    return data.fold(flowers, config.fold, config.folds, config.seed)


def _with_fitting_batch(run: Run) -> Run:
    """Make the batch so small that four fifths of the training images, from which a head is chosen, fill one."""
    replicas, count = run.device.num_replicas, run.flowers.count("train")
    most = count * 4 // 5 // replicas * replicas
    if not most:
        raise FlowersError(f"{count} training images are too few for {replicas} replicas; add photographs")
    if run.config.batch_size > most:
        print(f"The batch size is {most}, not {run.config.batch_size}: there are only {count} training images.")
    return run.with_config(batch_size=min(run.config.batch_size, most))


def train_batches(run: Run, augment: Augment | None = None) -> Batches:
    """Return what makes the run's training batches: called with `start`, it returns `data.train_batches` from there."""
    config = run.config
    mix = with_probability(MIXES[config.mix], config.mix_probability)
    return partial(
        data.train_batches,
        run.flowers,
        config.batch_size,
        image_size=config.image_size,
        augment=augment,
        mix=mix,
        sampling=config.sampling,
        seed=config.seed,
    )


def eval_batches(run: Run, split: str, image_size: int | None = None) -> tf.data.Dataset:
    """Return a split once, in file order, at `image_size`, else `eval_size`, else the size of training."""
    size = image_size or run.config.eval_size or run.config.image_size
    return data.eval_batches(run.flowers, split, run.config.eval_batch_size, image_size=size)


def predict(run: Run, model: keras.Model, splits: Sequence[str] = ("val", "test")) -> list[Predictions]:
    """Predict splits with test-time augmentation: the mean over `tta_sizes`, of the image and of its mirror image.

    There are none for val where it was trained on.

    Batch normalization, which keeps its statistics from now on, is folded into the convolutions: the same predictions,
    sooner. A smoke test spares the time and the memory of another network.

    Args:
        run: its configuration says which views.
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities `(B, num_classes)`.
        splits: of `train`, `val` and `test`.
    """
    config, network = run.config, model
    if not config.smoke_test:
        with run.device.scope():
            network = folding.fold_batch_norm(model)
    sizes = config.tta_sizes or (config.eval_size or config.image_size,)

    def predicted(split: str, size: int) -> Predictions:
        batches = eval_batches(run, split, size)
        return predictions.predict(network, batches, config.eval_batch_size, flip=config.tta_flip)

    return [predictions.average_views([predicted(split, size) for size in sizes]) for split in splits]
