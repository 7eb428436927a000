"""The built-in synthetic dataset: `petals` draws flowers, `dataset` writes them in the competition's layout."""

from flowerlib.sample.dataset import IMAGE_SIZES, num_classes, write

__all__ = ["IMAGE_SIZES", "num_classes", "write"]
