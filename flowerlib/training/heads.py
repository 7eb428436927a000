"""Classification heads on extracted features: one, or a whole grid of hyperparameters trained in parallel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd

from flowerlib import predictions
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks.heads import head as new_head
from flowerlib.predictions import Predictions
from flowerlib.training import features
from flowerlib.training.checkpoints import History
from flowerlib.training.features import Features
from flowerlib.training.loop import fit
from flowerlib.training.optimizers import loss, optimizer
from flowerlib.training.run import Run

ops = keras.ops
MIN_STD = 0.1  # of a feature, as a fraction of the root mean square of all features' standard deviations
HOLDOUT = 5  # one in so many training images, on which the grid is judged


def standardization(train: Features) -> keras.layers.Normalization:
    """Return a layer that brings each feature `(B, d)` to mean 0 and standard deviation 1 over the original images.

    In float32 whatever the policy: where the mean is ten deviations, bfloat16 would leave an error of a fortieth of
    one. A deviation is taken for no less than a tenth of the usual one: in few images some features never show, and
    one that does show in a new image, divided by next to nothing, would drown all others.
    """
    layer = keras.layers.Normalization(dtype="float32")
    layer.adapt(train.values[0].astype(np.float32))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, np.maximum(variance, MIN_STD**2 * variance.mean()), count])
    layer.finalize_state()
    return layer


def fit_head(
    run: Run, extracted: Mapping[str, Features], peak_lrs: Sequence[float], weight_decays: Sequence[float]
) -> tuple[Run, keras.Sequential, History]:
    """Choose learning rate and weight decay on a fifth of train, then train a linear head on all of it.

    As scikit-learn's `LogisticRegressionCV` does it, but with one holdout: `search` shows the whole grid.

    Args:
        run: as `training.start` returns it.
        extracted: split -> features.
        peak_lrs: the largest learning rates to try.
        weight_decays: of AdamW, to try.

    Returns:
        The run with the chosen `peak_lr` and `weight_decay`; the head, features `(B, d)` -> probabilities
        `(B, num_classes)`; and its history, as from `training.fit`.
    """
    grid = search(run, extracted["train"], peak_lrs, weight_decays)
    best = grid.loc[grid["macro_f1"].idxmax(), ["peak_lr", "weight_decay"]].to_dict()
    run = run.with_config(**best)
    return run, *train_head(run, extracted)


def search(run: Run, train: Features, peak_lrs: Sequence[float], weight_decays: Sequence[float]) -> pd.DataFrame:
    """Train a head for each pair of hyperparameters on four fifths of train, and judge it on the last fifth.

    Returns:
        One row a pair: `peak_lr`, `weight_decay`, and on the holdout `loss`, `accuracy`, `macro_f1`.
    """
    rest, holdout = features.split_holdout(train, HOLDOUT)
    grid = [HeadConfig(peak_lr, weight_decay) for peak_lr in peak_lrs for weight_decay in weight_decays]
    model = _train_parallel(run, rest, grid)
    views = [_outputs(model, holdout, view, run.config.eval_batch_size) for view in range(holdout.num_original)]
    probabilities = np.mean(views, axis=0)  # (n, heads, num_classes)
    rows = []
    for index, config in enumerate(grid):
        judged = Predictions(probabilities[:, index], holdout.labels, holdout.ids)
        rows.append(asdict(config) | judged.scores())
    return pd.DataFrame(rows)


def _outputs(model: keras.Model, extracted: Features, view: int, batch_size: int) -> np.ndarray:
    batches = features.eval_batches(extracted, batch_size, view)
    return np.concatenate([outputs[0] for outputs, *_ in predictions.iterate_outputs(model, batches, batch_size)])


def train_head(run: Run, extracted: Mapping[str, Features]) -> tuple[keras.Sequential, History]:
    """Train a linear head on all of train with the run's hyperparameters; return it and its history.

    Its weights begin at zero: in directions in which features hardly vary, training hardly corrects them, so that
    whatever they began with would stay as noise.
    """
    config, num_classes = run.config, len(run.classes)
    with run.device.scope():
        head = keras.Sequential([standardization(extracted["train"]), new_head(num_classes, config.dropout, "zeros")])
        head.compile(optimizer(run), loss(run), metrics=["accuracy"])
    train = partial(features.train_batches, extracted["train"], config.batch_size, num_classes, config.seed)
    val = features.eval_batches(extracted["val"], config.eval_batch_size)
    return head, fit(run, head, train, val, verbose=0)


def predict_head(run: Run, head: keras.Model, extracted: Features) -> Predictions:
    """Return a head's probabilities for every image of a split, averaged over its original views."""
    return features.predict(head, extracted, run.config.eval_batch_size)


@dataclass(frozen=True)
class HeadConfig:
    """The hyperparameters of one of many heads: the largest learning rate and AdamW's weight decay."""

    peak_lr: float
    weight_decay: float


class _ParallelHeads(keras.layers.Layer):
    """Dense layers side by side: features `(B, d)` -> probabilities `(B, K, num_classes)`, all in one product."""

    def __init__(self, count: int, num_classes: int) -> None:
        super().__init__(dtype="float32", name="heads")
        self.count, self.num_classes = count, num_classes

    def build(self, shape: tuple[int, int]) -> None:
        self.kernel = self.add_weight((self.count, shape[-1], self.num_classes), "zeros", name="kernel")
        self.bias = self.add_weight((self.count, 1, self.num_classes), "zeros", name="bias")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        logits = ops.matmul(inputs, self.kernel) + self.bias
        return ops.softmax(ops.swapaxes(logits, 0, 1))

    def alone(self, index: int, first: keras.layers.Layer) -> keras.Sequential:
        """Return one of them as a head of its own, after the layer `first`."""
        head = keras.Sequential([keras.Input(self.kernel.shape[1:2]), first, new_head(self.num_classes)])
        head.layers[-1].set_weights([self.kernel[index], self.bias[index, 0]])
        return head


class _ParallelAdamW(keras.optimizers.Adam):
    """AdamW with a learning rate and a weight decay for each of the heads, the first axis of every variable."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, grid: Sequence[HeadConfig]) -> None:
        super().__init__(schedule, name="parallel_adamw")
        self.rates = np.array([[[config.peak_lr]] for config in grid], np.float32)
        self.decays = np.array([[[config.weight_decay]] for config in grid], np.float32)

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        rates = learning_rate * self.rates
        if variable.shape[1] > 1:  # the kernels: biases, (heads, 1, classes), do not decay
            variable.assign(variable * (1.0 - rates * self.decays))
        super().update_step(gradient, variable, rates)


def train_heads(run: Run, train: Features, grid: Sequence[HeadConfig]) -> list[keras.Sequential]:
    """Train a linear head for each pair of hyperparameters, all on the same batches and in one computation.

    Args:
        run: all of its hyperparameters but `peak_lr` and `weight_decay` are used, as in `train_head`. Each epoch draws
            one of an image's views.
        train: the features to train on.
        grid: the hyperparameters of each head.

    Returns:
        The heads, features `(B, d)` -> probabilities `(B, num_classes)`; each standardizes the features first.

    Raises:
        FlowersError: there is not one whole batch.
    """
    model = _train_parallel(run, train, grid)
    first, *_, parallel = model.layers
    with run.device.scope():
        return [parallel.alone(index, first) for index in range(len(grid))]


def _train_parallel(run: Run, train: Features, grid: Sequence[HeadConfig]) -> keras.Sequential:
    """Train all heads in one model, features `(B, d)` -> probabilities `(B, len(grid), num_classes)`."""
    config, num_classes = run.config, len(run.classes)
    steps = len(train.labels) // config.batch_size
    if not steps:
        raise FlowersError(f"`batch_size` (={config.batch_size}) must be at most the {len(train.labels)} images in fit")
    warmup = config.warmup_epochs * steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, config.epochs * steps - warmup, warmup_target=1.0, warmup_steps=warmup
    )
    with run.device.scope():
        dropout = keras.layers.Dropout(config.dropout, seed=config.seed, dtype="float32")
        inputs = keras.Input(train.values.shape[-1:])
        model = keras.Sequential([inputs, standardization(train), dropout, _ParallelHeads(len(grid), num_classes)])
        model.compile(_ParallelAdamW(rate, grid), _sum_of_losses(config.label_smoothing))
    batches = features.train_batches(train, config.batch_size, num_classes, config.seed)
    model.fit(batches, steps_per_epoch=steps, epochs=config.epochs, verbose=0, shuffle=False)
    return model


def _sum_of_losses(label_smoothing: float) -> Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]:
    """Return cross-entropy `(B,)`, summed over the heads, of labels `(B, C)` and predictions `(B, K, C)`."""

    def loss(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        smoothed = y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[-1]
        return -ops.sum(smoothed[:, None] * ops.log(ops.maximum(y_pred, 1e-7)), axis=(1, 2))

    return loss
