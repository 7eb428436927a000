import numpy as np

from flowerlib import heads
from flowerlib.accelerator import keras


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_linear_is_a_softmax_over_one_matrix():
    head = heads.linear(5, dropout=0.5)
    features = np.random.default_rng(0).standard_normal((7, 12)).astype("float32")
    said = head(features)  # dropout is off outside training
    kernel, bias = head.get_weights()
    np.testing.assert_allclose(said, softmax(features @ kernel + bias), atol=1e-6)


def test_linear_answers_in_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert str(keras.ops.convert_to_numpy(heads.linear(5)(np.ones((2, 12), "float32"))).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
