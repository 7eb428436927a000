"""What sits on the features: the layers that turn a vector of features into probabilities."""

import numpy as np

from flowerlib.accelerator import keras


def linear(num_classes: int, dropout: float = 0.0) -> keras.Sequential:
    """Return a head of one dense layer: features `(B, d)` -> probabilities `(B, num_classes)`, in float32.

    Float32 whatever the policy: bfloat16 has three digits, too few for a softmax over many classes.
    """
    return keras.Sequential(
        [keras.layers.Dropout(dropout), keras.layers.Dense(num_classes, activation="softmax", dtype="float32")],
        name="head",
    )


def redense(trained: keras.layers.Dense, seed: int = 0) -> keras.Sequential:
    """Return a head with one more layer, which begins by saying exactly what a trained dense layer says.

    The new layer multiplies the features `(B, d)` by a fixed random rotation R and keeps the positive and the negative
    part apart, ReLU(Rx) and ReLU(-Rx): nothing is lost, since their difference is Rx. The last layer begins with the
    trained weights turned back by R, and learns from there. Source: Javid, Das, Skoglund and Chatterjee, "A ReLU Dense
    Layer to Improve the Performance of Neural Networks", arXiv 2010.13572.
    """
    kernel, bias = (np.asarray(weight) for weight in trained.get_weights())
    features, num_classes = kernel.shape
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((features, features)))
    parts = keras.layers.Dense(2 * features, "relu", use_bias=False, trainable=False, name="rotate_and_split")
    last = keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="probabilities")
    head = keras.Sequential([keras.Input((features,)), parts, last], name="head")
    parts.set_weights([np.concatenate([rotation, -rotation], axis=1)])
    last.set_weights([np.concatenate([rotation.T @ kernel, -rotation.T @ kernel]), bias])
    return head
