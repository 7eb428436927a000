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


def test_redense_begins_where_the_trained_layer_ended_and_learns_from_there():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((200, 12)).astype("float32"), rng.integers(0, 5, 200)
    trained = keras.layers.Dense(5)
    trained.build((None, 12))
    trained.set_weights([rng.standard_normal((12, 5)), rng.standard_normal(5)])
    head = heads.redense(trained)
    np.testing.assert_allclose(head(features), softmax(np.asarray(trained(features))), atol=1e-5)

    fixed = [weight.copy() for weight in head.layers[0].get_weights()]
    head.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    losses = head.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(head.layers[0].get_weights(), fixed)
    np.testing.assert_allclose(fixed[0][:, :12] @ fixed[0][:, :12].T, np.eye(12), atol=1e-5)
