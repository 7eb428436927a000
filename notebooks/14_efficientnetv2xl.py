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
# # EfficientNetV2XL, ImageNet-21k, frozen
#
# The second family of EfficientNets was searched for speed of training: its early blocks use ordinary convolutions,
# which matrix units like better. XL is the largest, and these weights have seen ImageNet-21k: 21,000 classes, many
# plants among them. Features that good need no retraining; only the head is trained. Source: Tan and Le,
# *EfficientNetV2: Smaller Models and Faster Training*, arXiv 2104.00298.
#
# In the work this series started from, this was the best of the five (validation accuracy 0.9650, public score 0.9589).
#
# | run | image size | val macro F1 | val accuracy | minutes |
# |---|---|---|---|---|
# | none on a TPU yet | | | | |
#
# The network never changes, so it need not look at an image more than once a view. That is done first; then everything
# happens on 1,280 numbers an image, in seconds, where training through the network would push every image
# through it again in every epoch.

# %%
from dataclasses import asdict, replace
from functools import partial

import pandas as pd

from flowerlib import accelerator, data
from flowerlib.networks import backbones, folding
from flowerlib.evaluation import statistics
from flowerlib.training import features, heads
from flowerlib.evaluation import errors
from flowerlib import figures, predictions, training
from flowerlib.training import record
from flowerlib.accelerator import keras

# %% [markdown]
# `accelerator` comes first among those used below because it chooses the backend for Keras: JAX where there is a TPU or a
# GPU, TensorFlow on a CPU.
#
# Every choice stands in the next cell, with its reason. `00_quickstart` differs in this cell and in its prose, in nothing
# else.

# %% tags=["parameters"]
NAME = "14_efficientnetv2xl"  # names the folder that this run leaves
BACKBONE = "EfficientNetV2XL"  # a row of flowerlib.backbones
IMAGE_SIZE = 512  # these weights were trained at 512 px
SHRINK = True  # on a CPU only a smoke_test: a look at one image takes 94 billion multiply-adds
NUM_AUGMENTED_VIEWS = 4  # varied views of each training image, besides the two plain ones: the head learns from six
EXTRACT_BATCH_SIZE = 32  # images a replica looks at together
BATCH_SIZE = 256  # features a step, over all replicas: they cost next to nothing
EPOCHS = 60  # seconds each; an epoch draws one view of each image
PEAK_LRS = (3e-4, 1e-3, 3e-3)  # around AdamW's usual rate; the best is chosen below
WEIGHT_DECAYS = (
    0.01,
    0.1,
    1.0,
)  # never tried on these features: a wide range; chosen below too
LABEL_SMOOTHING = 0.1  # never be quite sure: no label is beyond doubt
DROPOUT = 0.5  # of the head's 1,280 inputs: in the competition some classes have 18 images
SEED = 0

# %% [markdown]
# ## Where it runs
# A batch is split over all replicas: eight cores look at eight times as many images. On a CPU this notebook shrinks to a
# smoke_test, and says so here. Then every record is read once before anything else: a damaged file found now costs seconds,
# found later it costs the session.

# %%
device = accelerator.setup()
keras.utils.set_random_seed(SEED)
print(device)
run = training.configure(
    device, shrink=SHRINK, name=NAME, backbone=BACKBONE, fine_tune=False, image_size=IMAGE_SIZE,
    batch_size=BATCH_SIZE // device.num_replicas, epochs=EPOCHS, warmup_epochs=1,
    peak_lr=PEAK_LRS[0], weight_decay=WEIGHT_DECAYS[0], label_smoothing=LABEL_SMOOTHING,
    dropout=DROPOUT, mix="none", seed=SEED,
)  # fmt: skip
flowers = data.find(run.stored_size)
data.check(flowers)
fewest = flowers.count("train") * 4 // 5 // device.num_replicas  # what a head below learns from
run = replace(run, batch_size=min(run.batch_size, max(fewest, 1) * device.num_replicas))
print(flowers)

# %% [markdown]
# The first images of the validation split, with their names:

# %%
val_images, val_labels, _ = next(iter(data.eval_batches(flowers, "val", 12)))
figures.gallery(val_images, [flowers.classes[label] for label in val_labels])

# %% [markdown]
# ## Looking
# The backbone turns pixels into maps of features, and pooling averages each map to one number. Nothing in it changes any
# more, so its normalisation is folded into the convolutions before it. Training images are seen in six views: as they are,
# mirrored, and four times varied as `02_augmentation` shows; the others in the two plain ones.
# What was seen is kept on disk, batch by batch: a session that is stopped goes on here. The shapes below are views,
# images, features.

# %%
weights = backbones.available_weights(run.backbone) if run.smoke_test else "pretrained"
with device.scope():
    backbone = folding.freeze(backbones.load(run.backbone, run.image_size, weights))
    pixels = keras.Input(backbone.input_shape[1:])  # in float32: bfloat16 would round them
    feature_extractor = keras.Sequential(
        [pixels, backbone, keras.layers.GlobalAveragePooling2D(dtype="float32")]
    )
extract_batch_size = EXTRACT_BATCH_SIZE * device.num_replicas
seen = {
    split: features.extract(
        feature_extractor, flowers, split, extract_batch_size, mirror=not run.smoke_test,
        varied=NUM_AUGMENTED_VIEWS if split == "train" and not run.smoke_test else 0,
    )
    for split in data.SPLITS
}  # fmt: skip
{split: values.values.shape for split, values in seen.items()}

# %% [markdown]
# ## How to train the head?
# These weights were trained on other things, and nobody can know beforehand how fast a head should learn on their features,
# and how small its weights should be held. So nine heads, one for each pair of a learning rate and a weight decay, are
# trained side by side, as one computation, on four fifths of the training images, and judged on the last fifth. The
# validation split is not touched. Below, macro F1 on that fifth; the best pair is taken.

# %%
learn, judge = features.split_holdout(seen["train"], every=5)
choices = [heads.HeadConfig(rate, decay) for rate in PEAK_LRS for decay in WEIGHT_DECAYS]
with device.scope():
    tried = heads.train_heads(
        learn, len(flowers.classes), choices, epochs=run.epochs, batch_size=run.batch_size,
        label_smoothing=run.label_smoothing, dropout=run.dropout, seed=run.seed,
    )  # fmt: skip
scores = pd.DataFrame(heads.score_heads(tried, judge, run.eval_batch_size))
grid = pd.concat([pd.DataFrame([asdict(choice) for choice in choices]), scores], axis=1)
table = grid.pivot(index="peak_lr", columns="weight_decay", values="macro_f1")
mark = "SMOKE TEST, no result: " if run.smoke_test else ""
table.style.format(precision=4).highlight_max(axis=None).set_caption(f"{mark}macro F1")

# %%
best = grid["macro_f1"].idxmax()
run = replace(run, **asdict(choices[best]))
choices[best]

# %% [markdown]
# The work this series started from meant to add more dense layers and did not come to it. The paper it had in mind (Javid and
# others, *A ReLU Dense Layer to Improve the Performance of Neural Networks*, arXiv 2010.13572) adds one to a trained head
# without undoing what it knows: features are rotated at random and split into positive and negative parts, from which the
# last layer begins by saying the same as before, and learns on. Judged on the same fifth:

# %%
with device.scope():
    deeper = heads.with_relu_layer(tried[best], run.dropout, run.seed)
    deeper.compile(
        keras.optimizers.Adam(run.peak_lr / 10),
        keras.losses.CategoricalCrossentropy(label_smoothing=run.label_smoothing),
    )
deeper.fit(
    features.train_batches(learn, run.batch_size, len(flowers.classes), run.seed),
    steps_per_epoch=len(learn.labels) // run.batch_size,
    epochs=run.epochs // 2,
    shuffle=False,
    verbose=0,
)
rows = {"one dense layer": tried[best], "one more": deeper}
more = pd.DataFrame(
    heads.score_heads(list(rows.values()), judge, run.eval_batch_size), index=rows
)
more.style.format(precision=4).set_caption(f"{mark}on a fifth of the training images")

# %% [markdown]
# In `00_quickstart`, on other photographs, it did not help. The head below has one layer.

# %% [markdown]
# ## Training the head
# A first layer brings every feature to mean 0 and spread 1; then dropout, one dense layer and a softmax. It learns from
# all training images, with the pair that was chosen. Its weights begin at zero rather than at random: in directions in
# which features hardly vary, training hardly corrects them, so that whatever they began with would stay as noise.

# %%
with device.scope():
    head = keras.Sequential(
        [
            heads.standardization(seen["train"]),
            heads.linear(len(flowers.classes), run.dropout, "zeros"),
        ]
    )
    head.compile(
        training.optimizer(run, flowers),
        keras.losses.CategoricalCrossentropy(label_smoothing=run.label_smoothing),
        metrics=["accuracy"],
    )
train = partial(
    features.train_batches, seen["train"], run.batch_size, len(flowers.classes), run.seed
)
val = features.eval_batches(seen["val"], run.eval_batch_size)
history = training.fit(head, train, val, run, flowers, device, verbose=0)

# %% [markdown]
# ## The answers
# What took long is written down before it is looked at: the answers for val and test, in which both plain views vote, and
# the model. Looking and head together are one network, from pixels to probabilities. What the ensemble needs stays in
# `runs/`.

# %%
said, answers = (
    features.predict(head, seen[split], run.eval_batch_size) for split in ("val", "test")
)
pixels = keras.Input(feature_extractor.input_shape[1:])
model = keras.Sequential([pixels, *feature_extractor.layers, *head.layers])
left = record.save_run(
    run, model, history, flowers=flowers, device=device, weights=weights, val=said, test=answers,
    seen=seen["train"],
)  # fmt: skip
predictions.write_submission(answers, left["submission"], count=flowers.count("test"))
print(record.headline(left))

# %%
figures.curves(history, best_epoch=training.best_epoch(history), smoke_test=run.smoke_test)

# %% [markdown]
# The last epoch is the one kept: by then the learning rate has fallen to zero. To choose the best by its validation score
# would flatter that score. The training loss is measured with dropout and smoothed labels, that of validation without.
#
# ## Is what is saved what was judged?
# The network that is saved should say what the two halves said. Nearly: features are kept with three digits, and on TPU and
# GPU numbers are rounded on the way.

# %%
whole, halves = (
    predictions.predict(network, batches.take(1), extract_batch_size).probabilities
    for network, batches in (
        (
            model,
            data.eval_batches(flowers, "val", extract_batch_size, image_size=run.image_size),
        ),
        (head, features.eval_batches(seen["val"], extract_batch_size)),
    )
)
gap = abs(whole - halves).max()
print(f"largest difference of a probability: {gap:.4f}")
if gap > 0.02:
    print(
        "WARNING: more than rounding explains; hold the model against these answers before you use it."
    )

# %% [markdown]
# ## How good is it?
# Accuracy counts images, so in the competition's data 782 irises outweigh a class of 18. **Macro F1**, the competition's
# metric, is the mean of the classes' F1: the rare flower counts as much as the common one. Both plain views vote.

# %%
print(mark + str({name: round(score, 4) for name, score in said.scores().items()}))

# %% [markdown]
# The pairs that it confuses most often:

# %%
figures.confused_pairs(errors.confused_pairs(said, flowers.classes))

# %% [markdown]
# And the validation images it was most_confident_errors of, and wrong. Look for flowers that even you would confuse, and for labels that
# are wrong.

# %%
wrong = errors.most_confident_errors(said, flowers.classes)
figures.gallery(
    statistics.load_images(flowers, wrong),
    list(wrong["true"] + " / taken for " + wrong["predicted"]),
)
