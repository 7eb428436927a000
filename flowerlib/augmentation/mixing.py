"""CutMix and MixUp: training images, and their labels, mixed with others of the batch."""

from flowerlib.accelerator import tf
from flowerlib.data import Mix


def _reversed(batch: tf.Tensor) -> tf.Tensor:
    """The batch from its end: of each image i the partner, B - 1 - i. Forty times as fast as `batch[::-1]`."""
    return tf.gather(batch, tf.range(batch.shape[0])[::-1])


def _blend(batch: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """Blend each with a fraction of its partner."""
    return batch * (1.0 - fraction) + _reversed(batch) * fraction


def _cast_like(images: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Images in [0, 255] in the type of others, rounded where that is an integer."""
    return tf.cast(tf.round(images), like.dtype) if like.dtype.is_integer else images


def cutmix(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste a rectangle of one image into another; the label follows the fractions of the pixels.

    The partner of image i is image B - 1 - i. The rectangle keeps the image's proportions, its area is uniform in
    [0, 1], its centre anywhere; what falls outside is cut off and not counted. Source: Yun et al., arXiv 1905.04899.

    Args:
        images: `(B, S, S, 3)` uint8 or float32.
        labels: `(B, num_classes)` float32, rows that sum to one.
        seed: `(2,)` int32.

    Returns:
        Images and labels of the same shapes and types.
    """
    batch, size, _, channels = images.shape
    uniform = tf.random.stateless_uniform([3, batch, 1], seed)
    half = tf.sqrt(uniform[0]) * size / 2.0
    pixels = tf.range(size, dtype=tf.float32)[tf.newaxis] + 0.5
    rows, columns = (tf.abs(pixels - centre * size) < half for centre in (uniform[1], uniform[2]))
    height, width = (tf.reduce_mean(tf.cast(part, tf.float32), axis=1, keepdims=True) for part in (rows, columns))
    # A mask as large as the images: to spread a smaller one over the colours takes TensorFlow longer than all the rest.
    pasted = rows[:, :, tf.newaxis] & tf.repeat(columns, channels, axis=1)[:, tf.newaxis]
    flat = tf.reshape(images, pasted.shape)
    return tf.reshape(tf.where(pasted, _reversed(flat), flat), images.shape), _blend(labels, height * width)


def mixup(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image with another, and its label likewise.

    The partner of image i is image B - 1 - i, its fraction is drawn from Beta(0.2, 0.2), most often near 0, and kept at
    or below one half: so every image stays the main one of its own blend, and none drops out of the epoch.
    Source: Zhang et al., arXiv 1710.09412. Arguments and result as in `cutmix`.
    """
    gamma = tf.random.stateless_gamma([2, images.shape[0], 1], seed, alpha=0.2)
    fraction = tf.reduce_min(gamma, axis=0) / tf.reduce_sum(gamma, axis=0)
    mixed = _blend(tf.cast(images, tf.float32), fraction[:, :, tf.newaxis, tf.newaxis])
    return _cast_like(mixed, images), _blend(labels, fraction)


def with_probability(mix: Mix | None, fraction: float) -> Mix | None:
    """Return a function that mixes that fraction of the batches, drawn from the seed, and leaves others as they are."""
    if mix is None:
        return None

    def mixed(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw = tf.random.stateless_uniform([], seed + 1)
        return tf.cond(draw < fraction, lambda: mix(images, labels, seed), lambda: (images, labels))

    return mixed


MIXES = {"cutmix": cutmix, "mixup": mixup, "none": None}
