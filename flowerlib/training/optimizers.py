"""The learning rate schedule, the optimizer and the loss."""

import numpy as np

from flowerlib import data
from flowerlib.accelerator import keras
from flowerlib.training.run import Run


def learning_rate(run: Run) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate as a pure function of the step: a linear warm-up, then half a cosine to 0.

    The warm-up keeps the first, large gradients of a new head from spoiling a pretrained backbone.
    """
    config, steps = run.config, run.steps_per_epoch
    warmup = config.warmup_epochs * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0, config.epochs * steps - warmup, warmup_target=config.peak_lr, warmup_steps=warmup
    )


def learning_rates(run: Run) -> np.ndarray:
    """Return the learning rate of every step of a run, `(steps,)`, for a figure."""
    schedule = learning_rate(run)
    return np.array([schedule(step) for step in range(run.config.epochs * run.steps_per_epoch)])


class _AdamW(keras.optimizers.AdamW):
    """AdamW that trains the variables of the layer `head` at a learning rate of their own; all decay alike."""

    def __init__(self, *arguments: object, head_lr_multiplier: float, **options: object) -> None:
        super().__init__(*arguments, name="adamw", **options)
        self.head_lr_multiplier = head_lr_multiplier

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
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
