"""What explains a prediction to a person, as images in data URLs: a class activation map, similar training images."""

import base64
import io

import numpy as np
from PIL import Image

from flowerlib.photos.classification import ActivationMap, Classifier
from flowerlib.serving.schemas import ActivationMapImage, SimilarImage


def activation_map_image(
    classifier: Classifier, image: np.ndarray, activation_map: ActivationMap, label: int
) -> ActivationMapImage:
    """Return the activation map of a class as an overlay of its image `(S, S, 3)` uint8."""
    return ActivationMapImage(
        class_=classifier.classes[label],
        image=_png(Image.fromarray(image)),
        overlay=_png(_overlay(activation_map.values[..., label], image.shape[0])),
    )


def _overlay(values: np.ndarray, size: int) -> Image.Image:
    """Return values `(h, w)` as a black image of `size`: transparent at their maximum, opaque where not positive."""
    positive = np.maximum(values, 0)
    support = Image.fromarray(positive / max(positive.max(), 1e-6)).resize((size, size), Image.Resampling.BICUBIC)
    alpha = np.round(255 * (1 - np.clip(np.asarray(support), 0, 1))).astype(np.uint8)
    return Image.merge("LA", (Image.new("L", (size, size)), Image.fromarray(alpha)))


def similar_images(classifier: Classifier, features: np.ndarray, count: int) -> list[SimilarImage]:
    """Return the training images with the most similar features `(d,)`, the most similar first; none without them."""
    gallery = classifier.gallery
    if gallery is None:
        return []
    return [
        SimilarImage(
            class_=classifier.classes[gallery.labels[position]],
            cosine=min(1.0, max(-1.0, cosine)),  # rounding may exceed one
            thumbnail=_data_url(gallery.thumbnails[position], "image/jpeg"),
        )
        for position, cosine in gallery.nearest(features, count)
    ]


def _png(image: Image.Image) -> str:
    image.save(encoded := io.BytesIO(), "PNG")
    return _data_url(encoded.getvalue(), "image/png")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
