"""What sits on the features: the layers that turn a vector of features into probabilities."""

from flowerlib.accelerator import keras


def linear(num_classes: int, dropout: float = 0.0) -> keras.Sequential:
    """Return a head of one dense layer: features `(B, d)` -> probabilities `(B, num_classes)`, in float32.

    Float32 whatever the policy: bfloat16 has three digits, too few for a softmax over many classes.
    """
    return keras.Sequential(
        [keras.layers.Dropout(dropout), keras.layers.Dense(num_classes, activation="softmax", dtype="float32")],
        name="head",
    )
