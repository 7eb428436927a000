# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the networks see: augmentation
#
# A network that sees the same few images of a class in every epoch learns them by heart. So it never sees the same one
# twice: each time, the image is varied in ways that leave the flower what it is. This notebook shows every variation,
# first one at a time, then together, then the two that mix images. A CPU is enough.

# %%
from dataclasses import asdict, replace

import numpy as np

from flowerlib import augmentation, data, figures

# %% [markdown]
# Every choice stands in the next cell, with its reason. Change one and run all again.

# %% tags=["parameters"]
IMAGE_SIZE = 192  # the smallest the competition provides: nothing here needs more
COLUMNS = 6  # variations of each kind, beside the original
BATCH_SIZE = 24  # images to look at together: four rows of six
SEED = 0  # of everything random: the same seed gives the same figures again

# %% [markdown]
# ## One flower
# `train_batches` reads the training images in random order and in batches; a batch of one is one flower. Its pixels are
# numbers from 0 to 255 and stay so until the network itself scales them.

# %%
flowers = data.find(IMAGE_SIZE)
data.check(flowers)
print(flowers)

# %%
images, labels = next(iter(data.train_batches(flowers, 1, seed=SEED)))
flower = images[0]
print(figures.label_texts(labels, flowers.classes)[0], flower.shape, flower.dtype.name)

# %% [markdown]
# ## One operation at a time
# `Augmentation` holds the six operations and their strengths. `IDENTITY` is the same with all of them off: a copy of
# it with *one* strength switched on shows that operation alone.

# %%
full = augmentation.Augmentation()
operations = {
    name: replace(augmentation.IDENTITY, **{name: strength})
    for name, strength in asdict(full).items()
}
asdict(full)

# %% [markdown]
# Each row below is one operation, drawn anew for each column; the last row is all of them together. Rotating leaves
# empty corners: they are filled with the mirrored image, so that no black triangle tells the network how the image was
# turned. Everything that moves pixels is done in one resampling: one after the other, each step would blur a little.
#
# An operation takes a batch, here copies of one flower, and draws for each image by itself. The randomness comes from
# the *seed*, the second argument, a pair of numbers. Python's own `random` would be drawn only once, when TensorFlow
# translates the function into a graph, and then repeat itself for every batch.

# %%
operations["all six"] = full
copies = np.stack([flower] * COLUMNS)
grid = [[flower, *vary(copies, [SEED, 0])] for vary in operations.values()]
figures.rows(grid, [name.replace("_", " ") for name in operations], column_titles=["original"])

# %% [markdown]
# Is it still the same flower? That is the test for every augmentation, and the reason why the hue is left alone: a
# yellow iris turned violet would carry a wrong label.
#
# ## What the networks get
# The same inside the input pipeline: a batch of different flowers, every one varied in its own way.

# %%
images, labels = next(iter(data.train_batches(flowers, BATCH_SIZE, augment=full, seed=SEED)))
figures.gallery(images, [flowers.classes[label] for label in labels.numpy().argmax(axis=1)])

# %% [markdown]
# ## CutMix
# A finished batch can be varied once more. CutMix pastes a rectangle of one image into another, so that the network
# must know a flower by any of its parts. The label follows the pixels: a quarter of the area from another class is a
# quarter of the label. That is why a label here is a row of shares and not one number.

# %%
batches = data.train_batches(
    flowers, BATCH_SIZE, augment=full, mix=augmentation.cutmix, seed=SEED
)
images, labels = next(iter(batches))
figures.gallery(images, figures.label_texts(labels, flowers.classes))

# %% [markdown]
# ## MixUp
# MixUp blends two images like a double exposure, and their labels in the same proportion. Most blends are close to one
# of the two. The network learns to be only as sure as the picture allows.

# %%
batches = data.train_batches(
    flowers, BATCH_SIZE, augment=full, mix=augmentation.mixup, seed=SEED
)
images, labels = next(iter(batches))
figures.gallery(images, figures.label_texts(labels, flowers.classes))

# %% [markdown]
# Remember the mixing when you read training curves: a mixed image has no single right answer, so accuracy on the
# training images looks low, often lower than on the validation images, which are never varied or mixed.
#
# Whatever is done to an image, two things must hold, or the network is taught nonsense: pixels stay within their range,
# and the shares of a label sum to one.

# %%
assert images.numpy().min() >= 0
assert images.numpy().max() <= 255
assert abs(labels.numpy().sum(axis=1) - 1).max() < 1e-5
