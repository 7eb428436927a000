"""Galleries of a model's most confident errors: the images, and the class activation maps behind the predictions."""

from matplotlib.figure import Figure

from flowerlib import figures
from flowerlib.accelerator import keras
from flowerlib.data import Flowers
from flowerlib.evaluation.activation_maps import activation_maps
from flowerlib.evaluation.errors import most_confident_errors
from flowerlib.evaluation.statistics import load_images
from flowerlib.predictions import Predictions


def error_gallery(flowers: Flowers, val: Predictions, model: keras.Model | None = None, *, most: int = 12) -> Figure:
    """Show the most confident errors on val, each with its true and its predicted class.

    Args:
        flowers: the dataset of the predictions.
        val: the predictions for val.
        model: where given, each image is bright where it supports the predicted class (class activation maps).
        most: how many images to show.
    """
    errors = most_confident_errors(val, flowers.classes, most)
    images = load_images(flowers, errors)
    titles = list(errors["true"] + " / predicted: " + errors["predicted"])
    if model is None or errors.empty:
        return figures.gallery(images, titles)
    return figures.activation_maps(images, activation_maps(model, images, errors["label"].to_numpy()), titles)
