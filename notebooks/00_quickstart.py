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
# learn that again for our flowers. So we let it look at each picture **once**, before any training, keep the 1,280 numbers it sees, its
# *features*, and train only a small *head* on those numbers, which takes seconds.
#
# The network is EfficientNet-Lite0: EfficientNet (Tan and Le, arXiv 1905.11946) without the parts that telephones are
# slow at. Its ImageNet weights come with a small pip package, one of those in `requirements.txt`.

# %%
from flowerlib import accelerator, backbones, data, eda, features, heads
from flowerlib import mistakes, plots, predictions, record, training
from flowerlib.accelerator import keras

# %% [markdown]
# Every choice stands in the next cell, with its reason.

# %% tags=["parameters"]
NAME = "00_quickstart"  # names the folder that this run leaves
BACKBONE = "EfficientNetLite0"  # the lightest row of flowerlib.backbones
IMAGE_SIZE = 192  # the smallest the competition provides: 512 would take seven times as long
LOOK_BATCH = 64  # images the network looks at together: fills a CPU, spares its memory
BATCH_SIZE = 128  # features a step, over all replicas: they cost next to nothing
EPOCHS = 60  # a fraction of a second each
WARMUP_EPOCHS = 1  # one dense layer needs no more
PEAK_LR = 1e-3  # AdamW's usual rate
WEIGHT_DECAY = 0.1  # many weights for few images: hold them small
LABEL_SMOOTHING = 0.1  # never be quite sure: no label is beyond doubt
DROPOUT = 0.6  # of the features: no class may hang on a few of them
SEED = 0

# %% [markdown]
# ## The device and the data
# Every record is read and decoded once before anything else, so that a damaged file is named now.

# %%
device = accelerator.setup()
keras.utils.set_random_seed(SEED)
flowers = data.find(IMAGE_SIZE)
data.check(flowers)
print(device, flowers, sep="\n")

# %% [markdown]
# What is in the pictures? The first of the validation split, with their names:

# %%
val_images, val_labels, _ = next(
    iter(data.eval_batches(flowers, "val", LOOK_BATCH, image_size=IMAGE_SIZE))
)
plots.gallery(val_images[:12], [flowers.classes[label] for label in val_labels[:12]])

# %% [markdown]
# ## Looking once
# The backbone turns an image into 1,280 maps of features, each of 6 x 6 numbers at 192 px; pooling averages each map to
# one number. Each image is seen in two views, as it is and mirrored, for the head to learn from both. What was seen is
# kept on disk: run again, this cell reads it. The shapes below are views, images, features.

# %%
with device.scope():
    backbone = backbones.load(BACKBONE, IMAGE_SIZE)
    backbone.trainable = False
    pixels = keras.Input(backbone.input_shape[1:])  # in float32: bfloat16 would round them
    looker = keras.Sequential([pixels, backbone, keras.layers.GlobalAveragePooling2D()])
seen = {split: features.extract(looker, flowers, split, LOOK_BATCH) for split in data.SPLITS}
{split: values.values.shape for split, values in seen.items()}

# %% [markdown]
# ## Training the head
# A first layer brings every feature to mean 0 and spread 1; then dropout, one dense layer and a softmax. This training
# is never shrunk, whatever the device.

# %%
run = training.plan(
    device, shrink=False, name=NAME, backbone=BACKBONE, retrain=False, image_size=IMAGE_SIZE,
    batch_size=BATCH_SIZE // device.num_replicas, epochs=EPOCHS, warmup_epochs=WARMUP_EPOCHS, peak_lr=PEAK_LR,
    weight_decay=WEIGHT_DECAY, label_smoothing=LABEL_SMOOTHING, dropout=DROPOUT, mix="none",
    seed=SEED,
)  # fmt: skip
with device.scope():
    scaling = keras.layers.Normalization()
    scaling.adapt(seen["train"].values[0].astype("float32"))
    head = keras.Sequential([scaling, heads.linear(len(flowers.classes), run.dropout)])
    head.compile(
        training.optimizer(run, flowers),
        keras.losses.CategoricalCrossentropy(label_smoothing=run.label_smoothing),
        metrics=["accuracy"],
    )
train = features.train_batches(seen["train"], run.batch_size, len(flowers.classes), run.seed)
val = features.eval_batches(seen["val"], run.eval_batch_size)
history = training.fit(head, train, val, run, flowers, device, verbose=0)

# %%
plots.curves(history, best_epoch=training.best_epoch(history))

# %% [markdown]
# The last epoch is the one kept: by then the learning rate has fallen to zero. To choose the best by its validation score
# would flatter that score. The training loss is the higher one because it is measured with dropout and smoothed labels.

# %% [markdown]
# ## How good is it?
# **Macro F1**, the competition's metric, is the mean of the classes' F1: a rare flower counts as much as a common one.
# Both views vote here, so it differs a little from the curve. Validation images were never trained on.

# %%
said = features.predict(head, seen["val"], run.eval_batch_size)
{name: round(score, 4) for name, score in said.scores().items()}

# %% [markdown]
# The pairs that it confuses most often:

# %%
plots.confused_pairs(mistakes.confused_pairs(said, flowers.classes))

# %% [markdown]
# And the images it was surest of, and wrong. Look for flowers that you would confuse too, and for wrong labels.

# %%
wrong = mistakes.surest(said, flowers.classes)
plots.gallery(
    eda.pictures(flowers, wrong), list(wrong["true"] + " / taken for " + wrong["predicted"])
)

# %% [markdown]
# ## The submission
# Looking and head together are one network, from pixels to probabilities. It is saved whole, after a check that it says
# the same as the two halves did (nearly: on TPU and GPU numbers are rounded on the way).

# %%
pixels = keras.Input(looker.input_shape[1:])
model = keras.Sequential([pixels, *looker.layers, *head.layers])
first = data.eval_batches(flowers, "val", LOOK_BATCH).take(1)
whole = predictions.predict(model, first, LOOK_BATCH).probabilities
halves = predictions.predict(
    head, features.eval_batches(seen["val"], LOOK_BATCH).take(1), LOOK_BATCH
)
assert abs(whole - halves.probabilities).max() < 0.02
answers = features.predict(head, seen["test"], run.eval_batch_size)
predictions.write_submission(answers, "submission.csv", count=flowers.count("test"))
left = record.save_run(
    run,
    model,
    history,
    flowers=flowers,
    device=device,
    weights="pretrained",
    val=said,
    test=answers,
)
print(record.headline(left))
