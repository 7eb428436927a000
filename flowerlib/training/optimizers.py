"""The learning rate schedule, the optimizer and the loss."""

import math

import numpy as np

from flowerlib import data
from flowerlib.accelerator import keras
from flowerlib.training.run import Run


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the step: a linear warm-up from 0, then half a cosine to 0.

    The warm-up keeps the first, large gradients of a new head from spoiling a pretrained backbone. Unlike Keras'
    `CosineDecay` it may end sooner than was planned, without compiling anything anew: `total_steps` can be a variable.

    Args:
        peak: the largest learning rate.
        warmup_steps: in which it climbs.
        total_steps: where it reaches 0; a number, or a variable of the optimizer.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int | keras.Variable) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: int | keras.KerasTensor) -> keras.KerasTensor:
        """Return the learning rate of a step, counted from 0."""
        step, total = (keras.ops.cast(value, "float32") for value in (step, self.total_steps))
        fall = keras.ops.maximum(total - self.warmup_steps, 1.0)
        progress = keras.ops.clip((step - self.warmup_steps) / fall, 0.0, 1.0)
        climbing = step / max(self.warmup_steps, 1)
        falling = (1.0 + keras.ops.cos(math.pi * progress)) / 2.0
        return self.peak * keras.ops.where(step < self.warmup_steps, climbing, falling)


def learning_rate(run: Run) -> WarmupCosine:
    """Return the learning rate of a run, which ends with its last epoch."""
    config, steps = run.config, run.steps_per_epoch
    return WarmupCosine(config.peak_lr, config.warmup_epochs * steps, config.epochs * steps)


def learning_rates(run: Run) -> np.ndarray:
    """Return the learning rate of every step of a run, `(steps,)`, for a figure."""
    schedule = learning_rate(run)
    return np.array([schedule(step) for step in range(run.config.epochs * run.steps_per_epoch)])


class _AdamW(keras.optimizers.AdamW):
    """AdamW that trains the variables of the layer `head` at a learning rate of their own; all decay alike.

    The last step of its schedule is a variable, so that it can be moved, and is part of a checkpoint.
    """

    def __init__(self, schedule: WarmupCosine, *, head_lr_multiplier: float, **options: object) -> None:
        super().__init__(schedule, name="adamw", **options)
        self.schedule, self.head_lr_multiplier = schedule, head_lr_multiplier

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        planned = keras.initializers.Constant(self.schedule.total_steps)
        self.schedule.total_steps = self.add_variable((), initializer=planned, dtype="float32", name="total_steps")
        self.of_head = [index for index, variable in enumerate(variables) if "head" in variable.path.split("/")]

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        # On TensorFlow `variable` is a replica's own part of it, which has no path. Keras itself looks it up like this.
        of_head = self._get_variable_index(variable) in self.of_head
        super().update_step(gradient, variable, learning_rate * (self.head_lr_multiplier if of_head else 1.0))


def optimizer(run: Run) -> keras.optimizers.Optimizer:
    """Return AdamW over `learning_rate`; biases and the scales of normalization, which cannot overfit, do not decay."""
    config = run.config
    adamw = _AdamW(
        learning_rate(run),
        weight_decay=config.weight_decay,
        head_lr_multiplier=config.head_lr_multiplier,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )
    adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return adamw


def move_end(optimizer: keras.optimizers.Optimizer, total_steps: int) -> bool:
    """Let the learning rate of an optimizer reach 0 at another step; return whether it is one of `optimizer`'s."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of float16, whose loss is scaled
    ours = isinstance(optimizer, _AdamW)
    if ours:
        optimizer.schedule.total_steps.assign(total_steps)
    return ours


class _WeightedCrossentropy(keras.losses.CategoricalCrossentropy):
    """Cross-entropy of each image times the mean weight `(num_classes,)` of its label, which may be mixed."""

    def __init__(self, class_weights: np.ndarray, **options: float) -> None:
        super().__init__(**options)
        self.class_weights = class_weights.astype(np.float32)

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        return super().call(y_true, y_pred) * keras.ops.sum(y_true * self.class_weights, axis=-1)


def loss(run: Run) -> keras.losses.Loss:
    """Return cross-entropy with label smoothing, for labels `(B, num_classes)` that may be mixed.

    With `class_weights` an image counts more where its class has fewer images in train; the mean weight is 1.
    """
    config = run.config
    if config.class_weights == "none":
        return keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    labels, _ = data.labels_and_ids(run.flowers, "train")
    weights = np.ones(len(run.classes))
    weights[labels] = data.inverse_frequencies(labels, config.class_weights)
    return _WeightedCrossentropy(weights, label_smoothing=config.label_smoothing)
