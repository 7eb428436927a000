"""A network of a few hundred weights, so that tests run whole trainings."""

from flowerlib import heads
from flowerlib.accelerator import keras


def network(num_classes, image_size=24, dropout=0.0, seed=0):
    """Pixels (B, S, S, 3) in [0, 255] -> probabilities (B, num_classes); no BatchNorm, so batches do not matter."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            heads.linear(num_classes, dropout),
        ]
    )
