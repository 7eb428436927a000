"""What sits on the features: the layers that turn a vector of features into probabilities, alone or many at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.training import features
from flowerlib.training.features import Features

ops = keras.ops
MIN_STD = 0.1  # of a feature, as a share of the root mean square of all features' spreads


def linear(num_classes: int, dropout: float = 0.0, kernel_initializer: str = "glorot_uniform") -> keras.Sequential:
    """Return a head of one dense layer: features `(B, d)` -> probabilities `(B, num_classes)`, in float32.

    Float32 whatever the policy: bfloat16 has three digits, too few for features and for a softmax over many classes.
    On features that do not change, begin with `zeros`: where they hardly vary, training leaves the weights as they
    began.
    """
    dense = keras.layers.Dense(
        num_classes, activation="softmax", kernel_initializer=kernel_initializer, dtype="float32"
    )
    return keras.Sequential([keras.layers.Dropout(dropout, dtype="float32"), dense], name="head")


def standardization(train: Features) -> keras.layers.Normalization:
    """Return a layer that brings each feature `(B, d)` to mean 0 and spread 1, as they are in the images themselves.

    In float32 whatever the policy: where the mean is ten spreads, bfloat16 would leave an error of a fortieth of one.

    Spreads are taken for no less than a tenth of the usual one. In few images some features never show; divided by
    next to nothing, one that does show in a new image would drown all others.
    """
    layer = keras.layers.Normalization(dtype="float32")
    layer.adapt(train.values[0].astype(np.float32))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, np.maximum(variance, MIN_STD**2 * variance.mean()), count])
    layer.finalize_state()
    return layer


@dataclass(frozen=True)
class HeadConfig:
    """How one of many heads is trained: the largest learning rate and AdamW's weight decay."""

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

    def call(self, seen: keras.KerasTensor) -> keras.KerasTensor:
        logits = ops.matmul(seen, self.kernel) + self.bias
        return ops.softmax(ops.swapaxes(logits, 0, 1))


class _ParallelAdamW(keras.optimizers.AdamW):
    """AdamW with a rate and a decay for each of the heads, the first axis of every variable."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, choices: Sequence[HeadConfig]
    ) -> None:
        super().__init__(schedule, weight_decay=1.0, name="adamws")
        self.rates = np.array([[[choice.peak_lr]] for choice in choices], np.float32)
        self.decays = np.array([[[choice.weight_decay]] for choice in choices], np.float32)

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        super().update_step(gradient, variable, learning_rate * self.rates)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        for variable in variables:
            if variable.name == "kernel":
                variable.assign(variable * (1.0 - self.learning_rate * self.rates * self.decays))


def train_heads(
    train: Features,
    num_classes: int,
    choices: Sequence[HeadConfig],
    *,
    epochs: int,
    batch_size: int,
    label_smoothing: float = 0.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[keras.Sequential]:
    """Train a linear head for each choice, all on the same batches and in one computation.

    Args:
        train: what the network sees.
        num_classes: how many classes there are.
        choices: one for each head.
        epochs: passes over the images; each draws one of an image's views. The rate climbs in the first, then falls
            along half a cosine to zero.
        batch_size: global, over all replicas.
        label_smoothing: share of each label spread evenly over all classes.
        dropout: share of the features that no head sees in a training step.
        seed: of the order, the views, and what is dropped.

    Returns:
        The heads, features `(B, d)` -> probabilities `(B, num_classes)`; each first brings the features to mean 0 and
        spread 1.

    Raises:
        FlowersError: there is not one whole batch, or no epoch after the first.
    """
    if epochs < 2:
        raise FlowersError(f"`epochs` (={epochs}) must be at least 2: in the first the learning rate climbs")
    steps = len(train.labels) // batch_size
    if not steps:
        raise FlowersError(f"`batch_size` (={batch_size}) must be at most the {len(train.labels)} images to learn from")
    first = standardization(train)
    side = _ParallelHeads(len(choices), num_classes)
    model = keras.Sequential(
        [keras.Input(train.values.shape[-1:]), first, keras.layers.Dropout(dropout, seed=seed, dtype="float32"), side]
    )
    rate = keras.optimizers.schedules.CosineDecay(0.0, (epochs - 1) * steps, warmup_target=1.0, warmup_steps=steps)

    def loss(truth: keras.KerasTensor, said: keras.KerasTensor) -> keras.KerasTensor:
        smoothed = truth * (1.0 - label_smoothing) + label_smoothing / num_classes
        return -ops.sum(smoothed[:, None] * ops.log(ops.maximum(said, 1e-7)), axis=(1, 2))

    model.compile(_ParallelAdamW(rate, choices), loss)
    batches = features.train_batches(train, batch_size, num_classes, seed)
    model.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False)
    return [_alone(first, side, index) for index in range(len(choices))]


def _alone(first: keras.layers.Layer, side: _ParallelHeads, index: int) -> keras.Sequential:
    head = keras.Sequential([keras.Input(side.kernel.shape[1:2]), first, linear(side.num_classes)])
    head.layers[-1].set_weights([side.kernel[index], side.bias[index, 0]])
    return head


def score_heads(heads: Sequence[keras.Sequential], val: Features, batch_size: int) -> list[dict[str, float]]:
    """Return each head's `loss`, `accuracy` and `macro_f1` on `val`."""
    return [features.predict(head, val, batch_size).scores() for head in heads]


def with_relu_layer(head: keras.Sequential, dropout: float = 0.0, seed: int = 0) -> keras.Sequential:
    """Return a head with one more dense layer, which begins by saying exactly what a trained one says.

    The new layer multiplies what the last one gets, `(B, d)`, by a fixed random rotation R and keeps the positive and
    the negative part apart, ReLU(Rx) and ReLU(-Rx): nothing is lost, since their difference is Rx. The last layer
    begins with the trained weights turned back by R, and learns from there. Source: Javid, Das, Skoglund and
    Chatterjee, "A ReLU Dense Layer to Improve the Performance of Neural Networks", arXiv 2010.13572.

    Args:
        head: as `train_heads` returns it.
        dropout: share of what the last layer gets that it does not see in a training step.
        seed: of the rotation.
    """
    scaling, trained = head.layers
    kernel, bias = (np.asarray(weight) for weight in trained.get_weights())
    width, num_classes = kernel.shape
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    split = keras.layers.Dense(2 * width, "relu", use_bias=False, trainable=False, dtype="float32")
    last = linear(num_classes, dropout)
    deeper = keras.Sequential([keras.Input((width,)), scaling, split, last])
    split.set_weights([np.concatenate([rotation, -rotation], axis=1)])
    last.set_weights([np.concatenate([rotation.T @ kernel, -rotation.T @ kernel]), bias])
    return deeper
