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
# # ResNet152V2
#
# A residual block adds what it computes to what it was given, so a block that has nothing to say can stay silent, and
# 152 layers train as easily as 20. In version 2 normalisation and ReLU come *before* each convolution, which leaves the
# way of the gradient from the last block to the first quite free. Source: He et al., *Identity Mappings in Deep
# Residual Networks*, arXiv 1603.05027.
#
# The network begins with ImageNet weights, gets a new head for our classes, and is then trained whole. With 58 million
# parameters and the oldest design of the five it was the weakest in the work this series started from.
#
# | run | image size | val macro F1 | val accuracy | mean s/epoch |
# |---|---|---|---|---|
# | none on a TPU yet | | | | |

# %% [markdown]
# `accelerator` comes first because it chooses the backend for Keras: JAX where there is a TPU or a GPU, TensorFlow on a
# CPU.

# %%
from functools import partial

import numpy as np

from flowerlib import accelerator, augmentation, data
from flowerlib.networks import backbones
from flowerlib.evaluation import statistics
from flowerlib.training import heads
from flowerlib.predictions import metrics
from flowerlib.evaluation import errors
from flowerlib import figures, predictions, training
from flowerlib.training import record
from flowerlib.accelerator import keras

# %% [markdown]
# Every choice stands in the next cell, with its reason. The notebooks 10 to 13 differ in this cell and in their prose,
# in nothing else.

# %% tags=["parameters"]
NAME = "12_resnet152v2"  # names the folder that this run leaves
BACKBONE = "ResNet152V2"  # a row of flowerlib.backbones
FINE_TUNE = True  # the whole network: its ImageNet features have seen few of our flowers
IMAGE_SIZE = 512  # the largest the competition provides; petals' veins and spots need it
BATCH_SIZE = 16  # a replica: 128 on the eight cores of a TPU
EPOCHS = 20  # about 2,000 steps at a batch of 128
WARMUP_EPOCHS = 3  # the new head is random: the backbone waits until it says something
PEAK_LR = 2e-4  # below the usual 3e-4: three times the weights of DenseNet201
LR_BATCH_SIZE = 128  # over all replicas: for it PEAK_LR is meant, with the batch it changes by the square root
WEIGHT_DECAY = 0.05  # usual with AdamW
LABEL_SMOOTHING = 0.1  # never be quite sure: no label is beyond doubt
DROPOUT = 0.4  # of the head's inputs: in the competition some classes have 18 images
MIX = "cutmix"  # the usual choice where a class has few images; 02_augmentation shows it
HOURS = 8.5  # Kaggle ends a session after nine
SEED = 0

# %% [markdown]
# ## Where it runs
# A batch is split over all replicas, and all of them apply the same, averaged gradient: eight cores train as one, eight
# times as large (on JAX, normalisation included; TensorFlow normalises within each replica's share). On a CPU this
# notebook shrinks to a smoke test, and says so here.

# %%
device = accelerator.setup()
keras.utils.set_random_seed(SEED)
print(device)
run = training.configure(
    device, name=NAME, backbone=BACKBONE, fine_tune=FINE_TUNE, image_size=IMAGE_SIZE,
    batch_size=BATCH_SIZE, epochs=EPOCHS, warmup_epochs=WARMUP_EPOCHS,
    peak_lr=PEAK_LR, lr_batch_size=LR_BATCH_SIZE,
    weight_decay=WEIGHT_DECAY, label_smoothing=LABEL_SMOOTHING, dropout=DROPOUT, mix=MIX,
    seed=SEED,
)  # fmt: skip

# %% [markdown]
# ## What the network sees
# Every record is read once before anything else: a damaged file found now costs seconds, found in epoch 12 it costs the
# session. Then one batch, as the network gets it: varied by the six augmentations and mixed. A mixed image carries the
# shares of both its classes.

# %%
flowers = data.find(run.stored_size)
data.check(flowers)
print(flowers)

# %%
look = {"image_size": run.image_size}
mix = augmentation.MIXES[run.mix]
train = partial(
    data.train_batches, flowers, run.batch_size, **look,
    augment=augmentation.Augmentation(), mix=mix, seed=run.seed,
)  # fmt: skip
val, test = (
    data.eval_batches(flowers, split, run.eval_batch_size, **look) for split in ("val", "test")
)
images, labels = next(iter(train()))
figures.gallery(images[:12], figures.label_texts(labels[:12], flowers.classes))

# %% [markdown]
# ## The network
# The backbone turns pixels into maps of features, pooling averages each map to one number, and the head turns those
# numbers into a probability for each class. Building it within the device's scope puts its variables on every replica.

# %%
weights = backbones.available_weights(run.backbone) if run.smoke_test else "pretrained"
with device.scope():
    backbone = backbones.load(run.backbone, run.image_size, weights)
    backbone.trainable = run.fine_tune
    head = heads.linear(len(flowers.classes), run.dropout)
    pixels = keras.Input(backbone.input_shape[1:])  # in float32: bfloat16 would round them
    model = keras.Sequential(
        [pixels, backbone, keras.layers.GlobalAveragePooling2D(dtype="float32"), head]
    )
    model.compile(
        training.optimizer(run, flowers),
        keras.losses.CategoricalCrossentropy(label_smoothing=run.label_smoothing),
        metrics=["accuracy"],
    )
print(f"{run.backbone}, {weights} weights: {model.count_params():,} parameters")

# %% [markdown]
# The learning rate climbs while the new head is still guessing, then falls along half a cosine to zero: the weights of
# the last epoch are the settled ones, and the ones kept. To choose the best epoch by its validation score instead would
# make that score look better than it is.

# %%
steps, schedule = run.steps_per_epoch(flowers), training.learning_rate(run, flowers)
figures.learning_rate(np.array([schedule(step) for step in range(run.epochs * steps)]), steps)

# %% [markdown]
# ## Training
# One line an epoch. The first epoch is slower: the program is compiled in it. If the session is stopped, running the
# notebook again in the same folder goes on after the last epoch that was kept: each or, where they are short, one every
# two minutes. (On Kaggle, a saved version begins in an empty folder, and so from the start.)

# %%
history = training.fit(model, train, val, run, flowers, device, hours=HOURS)

# %% [markdown]
# ## The answers
# What took hours is written down before it is looked at. Each image of val and test is seen twice, as it is and mirrored,
# and the two answers are averaged. What the ensemble needs stays in `runs/`: the probabilities, the model, the record and
# the curves.

# %%
said, answers = (
    predictions.predict(model, images, run.eval_batch_size, mirror=not run.smoke_test)
    for images in (val, test)
)
left = record.save_run(
    run, model, history, flowers=flowers, device=device, weights=weights, val=said, test=answers
)
predictions.write_submission(answers, left["submission"], count=flowers.count("test"))
print(record.headline(left))

# %%
figures.curves(history, best_epoch=training.best_epoch(history), smoke_test=run.smoke_test)

# %% [markdown]
# The two losses are not to be held against each other: that of training is measured on varied and mixed images, smoothed
# labels and with dropout, that of validation on plain images and labels.
#
# ## How good is it?
# Accuracy counts images, so in the competition's data 782 irises outweigh a class of 18. **Macro F1**, the competition's
# metric, is the mean of the classes' F1: the rare flower counts as much as the common one. The classes it gets worst:

# %%
figures.class_f1(
    metrics.f1_scores(said.labels, said.predicted, len(flowers.classes)),
    flowers.classes,
    smoke_test=run.smoke_test,
)

# %% [markdown]
# And the validation images it was most_confident_errors of, and wrong. Look for flowers that even you would confuse, and for labels
# that are wrong.

# %%
wrong = errors.most_confident_errors(said, flowers.classes)
figures.gallery(
    statistics.load_images(flowers, wrong),
    list(wrong["true"] + " / taken for " + wrong["predicted"]),
)
