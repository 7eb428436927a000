"""The built-in sample: a synthetic flower dataset, to try everything without data and without Kaggle.

What lives here, in the order to read it:
    dataset: write the sample in the competition's layout
    species: the classes, each a form with a marking
    pictures: draw a picture of a species
    blooms: paint one flower
    painting: antialiased shapes on a canvas
"""

from flowerlib.sample.dataset import IMAGE_SIZES, num_classes, write

__all__ = ["IMAGE_SIZES", "num_classes", "write"]
