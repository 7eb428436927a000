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
# # Quickstart: from photographs to a submission in minutes, on a CPU
#
# A network that has seen a million photographs of everything has learned to see: edges, textures, petals. It need not
# learn that again for our flowers. So we let it look at each picture **once**, before any training, keep the 1,280 numbers
# it sees, its *features*, and train only a small *head* on those numbers, which takes seconds.
#
# The network is EfficientNet-Lite0: EfficientNet (Tan and Le, arXiv 1905.11946) without the parts that telephones are
# slow at. Its ImageNet weights come with a small pip package, one of those in `requirements.txt`.

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
# Every choice stands in the next cell, with its reason. `14_efficientnetv2xl` differs in this cell and in its prose, in
# nothing else.

# %% tags=["parameters"]
NAME = "00_quickstart"  # names the folder that this run leaves
BACKBONE = "EfficientNetLite0"  # the lightest row of flowerlib.backbones
IMAGE_SIZE = 192  # the smallest the competition provides: 512 would take seven times as long
SHRINK = False  # on a CPU too it is run in earnest
NUM_AUGMENTED_VIEWS = 0  # more views of each training image, varied; each costs another look
EXTRACT_BATCH_SIZE = 64  # images a replica looks at together: fills a CPU, spares its memory
BATCH_SIZE = 128  # features a step, over all replicas: they cost next to nothing
EPOCHS = 40  # a fraction of a second each; 60 are no better
PEAK_LRS = (3e-4, 1e-3, 3e-3)  # around AdamW's usual rate; the best is chosen below
WEIGHT_DECAYS = (0.03, 0.1, 0.3)  # many weights for few images; chosen below too
LABEL_SMOOTHING = 0.1  # never be quite sure: no label is beyond doubt
DROPOUT = 0.6  # of the features: no class may hang on a few of them
SEED = 0

# %% [markdown]
# ## The device and the data
# Every record is read and decoded once before anything else, so that a damaged file is named now.

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
# What is in the pictures? The first of the validation split, with their names:

# %%
val_images, val_labels, _ = next(iter(data.eval_batches(flowers, "val", 12)))
figures.gallery(val_images, [flowers.classes[label] for label in val_labels])

# %% [markdown]
# ## Looking once
# The backbone turns an image into 1,280 maps of features, each of 6 x 6 numbers at 192 px; pooling averages each map to
# one number. Nothing in it changes any more, so its normalisation is folded into the convolutions before it: the same
# features, in two thirds of the time on a CPU. Each image is seen in two views, as it is and mirrored, for the head to
# learn from both. What was seen is kept on disk: run again, this cell reads it. The shapes below are views, images,
# features.

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
# The head is small, so it costs little to try: nine heads, one for each pair of a learning rate and a weight decay, are
# trained side by side, as one computation. They learn from four fifths of the training images and are judged on the last
# fifth. The validation split is not touched: it must be able to surprise us. Below, macro F1 on that fifth; the best pair
# is taken.

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
# Would more dense layers help? *A ReLU Dense Layer to Improve the Performance of Neural Networks* (Javid and others, arXiv
# 2010.13572) adds one to a trained head without undoing what it knows: features are rotated at random and split into
# positive and negative parts, from which the last layer begins by saying the same as before, and learns on. Judged
# on the same fifth:

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
# In one run on 7,123 photographs (Oxford Flowers-102 and tulips) it did not help: macro F1 0.877 without it, 0.871 with it.
# The head stays as it is.

# %% [markdown]
# ## Training the head
# A first layer brings every feature to mean 0 and spread 1; then dropout, one dense layer and a softmax. Now it learns
# from all training images, with the pair that was chosen. Its weights begin at zero rather than at random: in directions
# in which features hardly vary, training hardly corrects them, so that whatever they began with would stay as noise.

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
# would flatter that score. The training loss is the higher one because it is measured with dropout and smoothed labels.
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
# **Macro F1**, the competition's metric, is the mean of the classes' F1: a rare flower counts as much as a common one.
# Both views vote here, so it differs a little from the curve. Validation images were never trained on.

# %%
print(mark + str({name: round(score, 4) for name, score in said.scores().items()}))

# %% [markdown]
# The pairs that it confuses most often:

# %%
figures.confused_pairs(errors.confused_pairs(said, flowers.classes))

# %% [markdown]
# And the images it was most_confident_errors of, and wrong. Look for flowers that you would confuse too, and for wrong labels.

# %%
wrong = errors.most_confident_errors(said, flowers.classes)
figures.gallery(
    statistics.load_images(flowers, wrong),
    list(wrong["true"] + " / taken for " + wrong["predicted"]),
)
