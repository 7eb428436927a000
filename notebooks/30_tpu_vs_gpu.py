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
# # TPU or GPU?
#
# The same training, DenseNet201 at 224 px, timed on whatever device this notebook runs on. Run it on several, and it
# puts their rows side by side: on Kaggle, add the outputs of the other runs as input; elsewhere, copy their
# `runs/30_tpu_vs_gpu-*` folders beside this one's.

# %%
from flowerlib import accelerator, augmentation, data
from flowerlib.networks import backbones
from flowerlib.training import heads
from flowerlib import figures, training
from flowerlib.training import record
from flowerlib.accelerator import keras

# %% [markdown]
# Only the speed counts here, so the weights may be random: a network computes as fast with bad weights as with good.

# %% tags=["parameters"]
BACKBONE = "DenseNet201"  # many thin layers: a fair, rather hard test for any device
IMAGE_SIZE = 224  # the size at which such comparisons are usually made
BATCH_SIZE = 32  # a replica; with eight cores, 256
EPOCHS = 4  # the first, with compilation, is told apart; the mean of three is steady
SEED = 0

# %%
device = accelerator.setup()
keras.utils.set_random_seed(SEED)
print(device)
run = training.configure(
    device, name=f"30_tpu_vs_gpu-{device.slug}", backbone=BACKBONE, fine_tune=True,
    image_size=IMAGE_SIZE, batch_size=BATCH_SIZE, epochs=EPOCHS, warmup_epochs=1,
    peak_lr=3e-4, weight_decay=0.05, label_smoothing=0.1, dropout=0.4, mix="none", seed=SEED,
)  # fmt: skip
flowers = data.find(run.stored_size)
data.check(flowers)
print(flowers)

# %% [markdown]
# ## The training
# As in the backbone notebooks, augmentation included: a device that waits for its images is slow, whatever it could do.

# %%
train = data.train_batches(
    flowers,
    run.batch_size,
    image_size=run.image_size,
    augment=augmentation.Augmentation(),
    seed=run.seed,
)
with device.scope():
    backbone = backbones.load(run.backbone, run.image_size, "random")
    head = heads.linear(len(flowers.classes), run.dropout)
    pixels = keras.Input(backbone.input_shape[1:])  # in float32: bfloat16 would round them
    model = keras.Sequential([pixels, backbone, keras.layers.GlobalAveragePooling2D(), head])
    model.compile(training.optimizer(run, flowers), "categorical_crossentropy")
seconds = training.time_epochs(model, train, run, flowers, device)
record.save_timing(run, seconds, flowers=flowers, device=device)["images_per_second"]

# %% [markdown]
# ## Side by side
# Seconds an epoch are those after the first; what the first took longer is compilation, paid once. Epochs
# compare only between rows with the same number of images and image size, images a second always. A row marked as a
# smoke_test was shrunk and says nothing about its device.

# %%
timings = record.find_timings()
timings.style.format(precision=1, thousands=",").hide(axis="index")

# %%
figures.seconds_per_epoch(timings)
