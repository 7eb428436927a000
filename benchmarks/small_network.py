"""The network and the augmentation of `03_finetune`, which several benchmarks train."""

from flowerlib import augmentation, networks
from flowerlib.accelerator import keras

FROZEN = "block3a_expand_conv", 3  # the first layer trained; how many of torch's blocks lie before it
AUGMENT = augmentation.Augmentation(vertical_flip=False, crop=0.5)  # as in `03_finetune`


def network(
    classes: int,
    *,
    before: str | None = FROZEN[0],
    dropout: float = 0.3,
    optimizer: keras.optimizers.Optimizer | None = None,
    loss: keras.losses.Loss | None = None,
) -> keras.Model:
    """The network of `03_finetune`, compiled; trained from the layer `before` on, or whole."""
    backbone = networks.load("EfficientNetLite0", None)
    if before:
        backbone = networks.freeze(backbone, before)
    pooling = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 3)), backbone, pooling, networks.head(classes, dropout)])
    loss = loss or keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(optimizer or keras.optimizers.AdamW(5e-4), loss)
    return model
