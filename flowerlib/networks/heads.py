"""The classification head on top of a backbone."""

from flowerlib.accelerator import keras


def head(num_classes: int, dropout: float = 0.0, kernel_initializer: str = "glorot_uniform") -> keras.Sequential:
    """Return a linear head: features `(B, d)` -> dropout -> dense layer -> softmax `(B, num_classes)`, in float32.

    Float32 whatever the policy: bfloat16 has three digits, too few for features and for a softmax over many classes.
    On features that do not change, begin with `zeros`: where they hardly vary, training leaves the weights as they
    began.
    """
    dense = keras.layers.Dense(
        num_classes, activation="softmax", kernel_initializer=kernel_initializer, dtype="float32"
    )
    return keras.Sequential([keras.layers.Dropout(dropout, dtype="float32"), dense], name="head")
