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
# # TPU or GPU? Training speed on whatever this runs on
#
# | goal | device | time | expect |
# |---|---|---|---|
# | images a second of one training, side by side for several devices | any; a smoke test on a CPU | some minutes | a row a device |
#
# Previous: [20_ensemble](20_ensemble.ipynb). First: [00_quickstart](00_quickstart.ipynb).
#
# The same training, DenseNet201 at 224 px, is timed on whatever device this notebook runs on. Run it on several, and it puts
# their rows side by side: on Kaggle, add the outputs of the other runs as input; elsewhere, copy their
# `runs/30_tpu_vs_gpu-*` folders beside this one's.

# %%
from flowerlib import augmentation, figures, networks, training

import keras  # after flowerlib, which chooses its backend: JAX on a TPU or GPU, TensorFlow on a CPU

# %% [markdown]
# Only the speed counts here, so the weights may be random: a network computes as fast with bad weights as with good.

# %% tags=["parameters"]
NAME = "30_tpu_vs_gpu"  # of the folder `runs/NAME-DEVICE` that this run leaves
BACKBONE = "DenseNet201"  # many thin layers: a fair, rather hard test for any device
IMAGE_SIZE = 224  # the size at which such comparisons are usually made
BATCH_PER_REPLICA = 32  # 256 on eight cores
EPOCHS = 4  # the first, with compilation, is told apart; the mean of three is steady
DROPOUT = 0.4
SEED = 0

# %%
run = training.start(globals())
run = run.with_config(name=f"{run.config.name}-{run.device.slug}")

# %% [markdown]
# ## Training
# As in the backbone notebooks, augmentation included: a device that waits for its images is slow, whatever it could do.

# %%
train = training.train_batches(run, augmentation.Augmentation())
with run.device.scope():
    backbone = networks.load(BACKBONE, run.config.image_size, "random")
    inputs = keras.Input(backbone.input_shape[1:])
    pooling = keras.layers.GlobalAveragePooling2D(dtype="float32")
    head = networks.head(len(run.classes), run.config.dropout)
    model = keras.Sequential([inputs, backbone, pooling, head])
    model.compile(training.optimizer(run), training.loss(run))
seconds = training.time_epochs(run, model, train)
timing = training.save_timing(run, seconds)
print(f"{timing['images_per_second']:.1f} images/s")

# %% [markdown]
# ## Side by side
# `seconds_per_epoch` is the mean without the first epoch; what that took longer is compilation, paid once. `train` is the
# number of training images: seconds an epoch compare only between rows with the same number and the same image size, images
# a second always. A smoke test was shrunk and says nothing about its device.

# %%
timings = training.find_timings()
timings.round(1)

# %%
figures.seconds_per_epoch(timings)

# %% [markdown]
# ## Try this
# 1. `BATCH_PER_REPLICA = 64`: expect more images a second on a TPU, whose matrix units like large batches, as long as it fits.
# 2. `IMAGE_SIZE = 512`: five times the pixels. Expect a fifth of the images a second, or less where the host's decoding is the limit.
# 3. `BACKBONE = "ResNet152V2"`: few wide layers. Expect a larger lead of the TPU.
#
# ## Conclusion
# Compare images a second, and count compilation once. If the host delivers fewer images a second than the device trains on,
# a faster device changes nothing.
