"""Augmentation of training images: `operations` on each image, `mixing` between the images of a batch."""

from flowerlib.augmentation.mixing import MIXES, cutmix, mixup, with_probability
from flowerlib.augmentation.operations import IDENTITY, Augmentation

__all__ = ["IDENTITY", "MIXES", "Augmentation", "cutmix", "mixup", "with_probability"]
