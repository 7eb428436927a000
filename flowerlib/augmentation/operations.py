"""Six random operations on training images, a batch at a time.

Everything random comes from the seed argument through `tf.random.stateless_*`: Python's own `random` would be drawn
once, when tf.data traces the function, and then be the same for every batch. Batches of uint8 stay uint8: they are a
quarter of the size, and are cast to floating point where they are used.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from flowerlib.accelerator import tf
from flowerlib.data import host_calls


@dataclass(frozen=True)
class Augmentation:
    """Six random operations, each drawn anew for every image.

    The four that move pixels are composed into one affine map, so that the image is resampled once; the two that
    change colour into one multiply-add. What the map reaches beyond the border is filled with the reflected image.

    Attributes:
        horizontal_flip: mirror left and right, in half of the cases.
        vertical_flip: mirror top and bottom, in half of the cases.
        rotation: largest angle, in degrees, either way.
        crop: smallest side of the square that is cut out and enlarged, as a fraction of the image's side; 1 keeps all.
        contrast: largest change, either way, of the distance to the image's mean colour; 0.2 is 80 to 120 %.
        brightness: largest change, either way, as a fraction of the full range of 255.
    """

    horizontal_flip: bool = True
    vertical_flip: bool = True
    rotation: float = 30.0
    crop: float = 0.75
    contrast: float = 0.2
    brightness: float = 0.1

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment every image of a batch, each with random parameters of its own.

        Args:
            images: `(B, S, S, 3)` uint8, or float32 in [0, 255].
            seed: `(2,)` int32; the same seed gives the same result.

        Returns:
            Images of the same shape, type and range.
        """
        images = tf.convert_to_tensor(images)
        uniform = self.random_parameters(seed, tf.shape(images)[0])
        affine = tf.stack(self.affine_matrix(uniform, images.shape[1]), axis=1)
        gain, brighter = 1.0 + self.contrast * uniform[:, 6], 255.0 * self.brightness * uniform[:, 7]
        augmented = host_calls.numpy_function(_transform, [images, affine, gain, brighter], images.dtype)
        return tf.ensure_shape(augmented, images.shape)

    def random_parameters(self, seed: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
        """Return the random numbers for `count` images, `(count, 8)` float32 in [-1, 1)."""
        return tf.random.stateless_uniform([count, 8], seed, -1.0, 1.0)

    def affine_matrix(self, uniform: tf.Tensor, size: int) -> tuple[tf.Tensor, ...]:
        """Return the map from a pixel (x, y) of the result to where it is read: (a x + b y + c, d x + e y + f).

        Around the image's centre: turned and mirrored, scaled by the crop's share, moved to the crop's centre.

        Args:
            uniform: `(..., 8)`, from `random_parameters`.
            size: side of the image in pixels.

        Returns:
            a to f, `(...)` each.
        """
        angle = uniform[..., 0] * self.rotation * math.pi / 180.0
        share = 1.0 - (1.0 - self.crop) * (uniform[..., 1] + 1.0) / 2.0
        mirror_x = tf.where(uniform[..., 2] < 0, -1.0, 1.0) if self.horizontal_flip else 1.0
        mirror_y = tf.where(uniform[..., 3] < 0, -1.0, 1.0) if self.vertical_flip else 1.0
        centre, room = (size - 1) / 2.0, (1.0 - share) * size / 2.0
        cos, sin = share * tf.cos(angle), share * tf.sin(angle)
        a, b = cos * mirror_x, -sin * mirror_y
        d, e = sin * mirror_x, cos * mirror_y
        c = centre + uniform[..., 4] * room - (a + b) * centre
        f = centre + uniform[..., 5] * room - (d + e) * centre
        return a, b, c, d, e, f


IDENTITY = Augmentation(
    horizontal_flip=False, vertical_flip=False, rotation=0.0, crop=1.0, contrast=0.0, brightness=0.0
)


def _transform(images: np.ndarray, affine: np.ndarray, gain: np.ndarray, brighter: np.ndarray) -> np.ndarray:
    """Move and colour each image, with OpenCV: several times faster than TensorFlow, and without Python's lock."""
    augmented = np.empty_like(images)
    for index, image in enumerate(images):
        moved = cv2.warpAffine(
            image,
            affine[index].reshape(2, 3),
            image.shape[1::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        offset = (1.0 - gain[index]) * np.array(cv2.mean(moved)[:3], np.float32) + brighter[index]
        if images.dtype == np.uint8:
            levels = np.arange(256, dtype=np.float32)[:, np.newaxis] * gain[index] + offset
            table = np.clip(np.round(levels), 0, 255).astype(np.uint8)
            cv2.LUT(moved, table[:, np.newaxis], augmented[index])
        else:
            augmented[index] = np.clip(moved * gain[index] + offset, 0, 255)
    return augmented
