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
# # Data augmentation: random operations, CutMix, MixUp
#
# | goal | device | time | expect |
# |---|---|---|---|
# | see every augmentation that the training notebooks use | a CPU is enough | half a minute | pictures: one row an operation |
#
# Previous: [01_eda](01_eda.ipynb). Next: [03_finetune](03_finetune.ipynb).
#
# A network that gets the same few images of a class in every epoch learns them by heart: it *overfits*. **Data augmentation**
# changes each image at random, in ways that leave the flower what it is, so that no two epochs are the same. This notebook
# shows every operation, first one at a time, then together, then CutMix and MixUp, which mix images.

# %%
from dataclasses import asdict, replace

import numpy as np

from flowerlib import augmentation, data, figures

# %% [markdown]
# ## Parameters
# Change one and run all again.

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
BATCH_SIZE = data.fitting_batch_size(flowers, BATCH_SIZE)

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
grid = [[flower, *augment(copies, [SEED, 0])] for augment in operations.values()]
figures.rows(grid, [name.replace("_", " ") for name in operations], column_titles=["original"])

# %% [markdown]
# Is it still the same flower? That is the test for every augmentation, and the reason why the hue is left alone: a
# yellow iris turned violet would carry a wrong label.
#
# ## A training batch
# The same inside the input pipeline: a batch of different flowers, each with random parameters of its own.

# %%
images, labels = next(iter(data.train_batches(flowers, BATCH_SIZE, augment=full, seed=SEED)))
figures.gallery(images, [flowers.classes[label] for label in labels.numpy().argmax(axis=1)])

# %% [markdown]
# ## CutMix
# CutMix (Yun et al., arXiv 1905.04899) pastes a rectangle of one image into another, so that the network must identify a flower
# by any of its parts. The label follows the pixels: a quarter of the area from another class is a quarter of the label.
# That is why a label here is a row of fractions and not one number.

# %%
batches = data.train_batches(
    flowers, BATCH_SIZE, augment=full, mix=augmentation.cutmix, seed=SEED
)
images, labels = next(iter(batches))
figures.gallery(images, figures.label_texts(labels, flowers.classes))

# %% [markdown]
# ## MixUp
# MixUp (Zhang et al., arXiv 1710.09412) blends two images like a double exposure, and their labels in the same proportion. Most
# blends are close to one of the two. It discourages overconfidence.

# %%
batches = data.train_batches(
    flowers, BATCH_SIZE, augment=full, mix=augmentation.mixup, seed=SEED
)
images, labels = next(iter(batches))
figures.gallery(images, figures.label_texts(labels, flowers.classes))

# %% [markdown]
# Remember the mixing when you read training curves: a mixed image has no single right answer, so accuracy on the
# training images looks low, often lower than on the validation images, which are never augmented or mixed.
#
# Whatever is done to an image, two things must hold, or the network is taught nonsense: pixels stay within their range, and the
# fractions of a label sum to one.

# %%
assert images.numpy().min() >= 0
assert images.numpy().max() <= 255
assert abs(labels.numpy().sum(axis=1) - 1).max() < 1e-5

# %% [markdown]
# ## Try this
# 1. `Augmentation(rotation=180)`: is it still the same flower? For photographs from above, yes.
# 2. `Augmentation(crop=0.3)`: expect crops without any petal. That is too strong.
# 3. `SEED = 1`: other random parameters. Expect other images, and the same ones again when you set it back.
#
# ## Conclusion
# Six random operations and two ways to mix turn a few images of a class into endless ones.
# [03_finetune](03_finetune.ipynb) trains with them; how much each adds to the score is in the project's recipes.
