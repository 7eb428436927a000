"""Augmentation of training images: `operations` on each image, `mixing` between the images of a batch."""

from flowerlib.augmentation.mixing import MIXES, cutmix, mixup, sometimes
from flowerlib.augmentation.operations import UNCHANGED, Augmentation

__all__ = ["MIXES", "UNCHANGED", "Augmentation", "cutmix", "mixup", "sometimes"]
