"""The learning rate schedule and the optimizer."""

from flowerlib.accelerator import keras
from flowerlib.data import Flowers
from flowerlib.training.config import TrainConfig


def learning_rate(config: TrainConfig, flowers: Flowers) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate as a pure function of the step: a straight climb to the peak, then half a cosine to 0.

    The climb keeps the first, large gradients of a new head from spoiling a pretrained backbone.
    """
    steps = config.steps_per_epoch(flowers)
    warmup = config.warmup_epochs * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0, config.epochs * steps - warmup, warmup_target=config.peak_lr, warmup_steps=warmup
    )


class _AdamW(keras.optimizers.AdamW):
    """AdamW whose last two variables, the head's, learn so many times as fast; all decay alike."""

    def __init__(self, *arguments: object, head_lr_multiplier: float, **options: object) -> None:
        super().__init__(*arguments, name="adamw", **options)
        self.head_lr_multiplier = head_lr_multiplier

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        of_head = self._get_variable_index(variable) >= len(self._trainable_variables) - 2
        super().update_step(gradient, variable, learning_rate * (self.head_lr_multiplier if of_head else 1.0))


def optimizer(config: TrainConfig, flowers: Flowers) -> keras.optimizers.Optimizer:
    """Return AdamW over `learning_rate`; biases and normalisation's scales, which cannot over-fit, do not decay."""
    adamw = _AdamW(
        learning_rate(config, flowers), weight_decay=config.weight_decay, head_lr_multiplier=config.head_lr_multiplier
    )
    adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return adamw
