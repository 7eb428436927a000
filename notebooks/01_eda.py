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
# # The data: class imbalance, colours, near-duplicates
#
# | goal | device | time | expect |
# |---|---|---|---|
# | know the data: classes, imbalance, duplicates across splits | a CPU is enough | half a minute to three minutes | pictures, and three rules for what follows |
#
# Previous: [00_quickstart](00_quickstart.ipynb). Next: [02_augmentation](02_augmentation.ipynb).
#
# Exploratory data analysis (EDA): which images there are, how imbalanced the classes are and what that does to the score,
# whether colour alone would do, and which images are there twice (data leakage). Nothing is trained and nothing is changed.

# %%
import numpy as np
import pandas as pd

from flowerlib import data, evaluation, figures

# %% [markdown]
# ## Parameters
# Change one and run all again.

# %% tags=["parameters"]
IMAGE_SIZE = 192  # the smallest the competition provides: quick to decode, and colours and copies show as well
MAX_DISTANCE = 6  # bits of 64: near-duplicates stay within, unrelated photographs do not
SHOWN = 16  # pairs of near-duplicates to draw: four rows of four
SEED = 0  # of which image stands for its class

# %% [markdown]
# ## What is there
# `find` takes the folder that `FLOWERS_DATA` names, else the competition's where Kaggle mounts it, else the small
# synthetic sample. The line it prints ends with a fingerprint of the files: two runs that print the same one saw the
# same data.

# %%
flowers = data.find(IMAGE_SIZE)
print(flowers)

# %% [markdown]
# The images lie in TFRecord files, and each file's *name* says how many it holds. Training trusts those names, so they
# are compared with the records here, once; on the way every image is decoded and every label checked. A damaged file
# stops this cell with its name.

# %%
data.check(flowers)
splits = {split: (len(files), flowers.count(split)) for split, files in flowers.shards.items()}
pd.DataFrame(splits, index=["files", "images"]).T

# %% [markdown]
# `train` is for learning and `val`, the validation split, for choosing between networks. The labels of
# `test` are kept back; a score there is worth something only as long as nobody has chosen by it.
#
# Now each image is decoded once more and noted as one row of a table, then let go, so that memory stays small however
# many there are.

# %%
images = evaluation.image_table(flowers)
images.head().round(1)

# %% [markdown]
# ## The classes
# One training image of each class, drawn at random. Look for pairs that you would mix up yourself: a network will, too.

# %%
one_each = images[images["split"] == "train"].groupby("label").sample(1, random_state=SEED)
figures.gallery(evaluation.load_images(flowers, one_each), one_each["class"], columns=10)

# %% [markdown]
# ## How many of each
# The scale is logarithmic: the same distance between two dots is the same ratio. If the two dots are equally far apart in every
# row, train and val have the same class distribution, and the validation score is representative.

# %%
counts = evaluation.class_counts(images, len(flowers.classes))
figures.class_counts(counts, flowers.classes)

# %%
pd.DataFrame(counts).agg(["min", "median", "max"])

# %% [markdown]
# ## What imbalance does to the score
# The competition scores by *macro F1*. A class's F1 is high only if its flowers are found *and* no others are taken for
# them; the plain mean over all classes then counts a rare class as much as a common one. Accuracy counts images
# instead.
#
# To see the difference, imagine a classifier that is perfect but for the rarest classes, which it never predicts: it calls
# their flowers by the name of the most frequent class. With every class it ignores, accuracy loses that class's share of
# the images, which is little for a rare one; macro F1 loses a whole class. That is **class imbalance**: the more unequal the
# classes, the wider the two lines part, and that is why the notebooks compare models by macro F1.

# %%
val_labels = images.loc[images["split"] == "val", "label"].to_numpy()
figures.ignored_classes(evaluation.score_ignoring_rare(val_labels, len(flowers.classes)))

# %% [markdown]
# ## Size
# All images have the same side, so what differs is how much is in them: a plain background makes a small JPEG, a
# meadow a large one. Lines that lie on each other are good news: a split that lay apart would have come from
# elsewhere, and a score on one would say little about the other.

# %%
figures.file_sizes(
    {split: rows["kilobytes"] for split, rows in images.groupby("split", sort=False)}
)

# %% [markdown]
# ## Does colour give the class away?
# A strip is a class, a cell the mean colour in the middle of one of its training images, from dark to bright; the
# classes are ordered by hue. A strip in one colour would be easy to know again. A strip that holds half the rainbow is
# a flower that gardeners have bred in every colour.

# %%
strips, order = evaluation.colour_strips(images)
figures.class_colours(strips, [flowers.classes[label] for label in order])

# %% [markdown]
# Let a *baseline* decide: a nearest-centroid classifier that knows each class's mean colour in training and predicts the nearest.
# What it gains over the first row, which always predicts the largest class, is what colour gives away; what it lacks to a
# network's score in the next notebooks has to come from shape.

# %%
evaluation.colour_scores(images, len(flowers.classes))

# %% [markdown]
# ## Which images are there twice?
# People upload a photograph twice, brighten it, or press the shutter twice. If one of the two is in `train` and the other in `val`,
# the validation score is too high, because the model has seen the answer: **data leakage**.
#
# A *perceptual hash* finds near-duplicates: 64 bits that describe what an image looks like from afar. Compressing or resizing an
# image changes few of them; in unrelated images about half differ. All pairs are compared, and each image with the mirrored
# others as well. The table counts pairs by how many bits differ. True duplicates share a class: the distance at which pairs
# of *different* classes appear is where false matches begin.

# %%
pairs = evaluation.near_duplicates(images, 2 * MAX_DISTANCE)
pd.crosstab(pairs["distance"], pairs["classes"])

# %% [markdown]
# What differs in at most `MAX_DISTANCE` bits is taken for a near-duplicate; those across two splits are listed first.
# Two of *different* classes are worth a look: either the hash is wrong or one of the labels.

# %%
near = pairs[pairs["distance"] <= MAX_DISTANCE].sort_values(
    "across", ascending=False, kind="stable"
)
near

# %% [markdown]
# The first of them, side by side. A frame says that the two are in different splits.

# %%
shown = near.head(SHOWN)
sides = [images.loc[shown[side]] for side in ("left", "right")]
titles = [
    " / ".join(names)
    for names in zip(*(side["split"] + " " + side["class"] for side in sides), strict=True)
]
together = np.concatenate([evaluation.load_images(flowers, side) for side in sides], axis=2)
figures.gallery(together, titles, columns=4, marks=shown["across"])

# %% [markdown]
# How much can they matter? At worst, each image that has a copy in an earlier split is predicted right only because of it, and
# accuracy is too high by the `share` below. Nothing is removed here: whoever compares scores with others must use the same
# images.

# %%
evaluation.count_cross_split_duplicates(images, near)

# %% [markdown]
# ## Try this
# 1. `MAX_DISTANCE = 12`: expect many false matches, pairs that are alike from afar only.
# 2. `IMAGE_SIZE = 512`, where the data have it: expect the same hashes for nearly all images.
# 3. `SEED = 1`: another image of each class. Expect no change in any table.
#
# ## Conclusion
# Compare models by macro F1 and look at the rarest classes first; do not count on colour; and ignore improvements that are
# smaller than the share of duplicates. What a network gets in place of these images is the subject of
# [02_augmentation](02_augmentation.ipynb).
