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
# # DenseNet201: fine-tuned on a TPU
#
# | goal | device | time | expect |
# |---|---|---|---|
# | a strong single network, for the ensemble | TPU or GPU; a smoke test on a CPU | not measured | not run on a TPU yet |
#
# Previous: [03_finetune](03_finetune.ipynb). Next: [11_xception](11_xception.ipynb).
#
# In a DenseNet every layer reads the outputs of *all* layers before it in its block, not only of the last one. Early edges and
# colours stay within reach of the late layers, so each layer can be thin: 201 layers have fewer parameters than a ResNet of
# 50. Source: Huang et al., *Densely Connected Convolutional Networks*, arXiv 1608.06993.
#
# **Fine-tuning**: the network starts from pretrained ImageNet weights, gets a new head for our classes, and is trained as a
# whole (transfer learning).
#
# | run | image size | val macro F1 | val accuracy | leaderboard | seconds an epoch |
# |---|---|---|---|---|---|
# | not run on a TPU yet | | | | | |

# %%
from flowerlib import augmentation, evaluation, figures, networks, training

import keras  # after flowerlib, which chooses its backend: JAX on a TPU or GPU, TensorFlow on a CPU

# %% [markdown]
# ## Hyperparameters
# The notebooks 10 to 13 differ in this cell and in their prose, in nothing else.

# %% tags=["parameters"]
NAME = "10_densenet201"  # of the folder `runs/NAME` that this run leaves
BACKBONE = "DenseNet201"  # a row of networks.BACKBONES
FINE_TUNE = True  # False freezes the backbone: only the head is trained
IMAGE_SIZE = 512  # the largest the competition provides; petals' veins and spots need it
EVAL_SIZE = None  # image size in validation (FixRes: often a little larger is better); None for IMAGE_SIZE
TTA_SIZES = ()  # test-time augmentation: image sizes of the final predictions; () for EVAL_SIZE alone
TTA_FLIP = True  # test-time augmentation: predict the mirror image too, and average
BATCH_PER_REPLICA = 16  # 128 on the eight cores of a TPU
EPOCHS = 20  # about 2,000 steps at a batch of 128
WARMUP_EPOCHS = 3  # so that the random head does not damage the pretrained weights
PEAK_LR = 3e-4  # usual for AdamW on a pretrained network
LR_BATCH_SIZE = 128  # the global batch size PEAK_LR is meant for; for another it is scaled by the square root
HEAD_LR_MULTIPLIER = 1  # the learning rate of the new head over that of the backbone
WEIGHT_DECAY = 0.05  # usual with AdamW
LABEL_SMOOTHING = 0.1  # discourages overconfidence: some labels are wrong
DROPOUT = 0.4  # on the head's inputs, against overfitting: some classes have 18 images
MIX = "cutmix"  # or "mixup", "none"; 02_augmentation shows them
MIX_PROBABILITY = 1.0  # the fraction of batches that are mixed
CLASS_WEIGHTS = "none"  # in the loss, against class imbalance: or "balanced", "sqrt"
SAMPLING = "uniform"  # of training images, against class imbalance: or "balanced", "sqrt"
EMA = 0.0  # exponential moving average of the weights, such as 0.999; 0 for none
FOLD = None  # cross-validation: the part of train and val to judge by, from 0; None for val
FOLDS = 5  # how many parts there are: stratified, near-duplicates together
TRAIN_ON = "train"  # or "train+val", for a final submission: then there is no score
HOURS = 8.5  # the time budget: Kaggle ends a session after nine
SEED = 0

# %% [markdown]
# ## Device and data
# A batch is split over all replicas, the TPU's eight cores, and all of them apply the same averaged gradient: *data
# parallelism*. (On JAX, batch normalization sees the whole batch; TensorFlow normalizes within each replica's share.) On a
# CPU this notebook becomes a **smoke test**, which shows that everything works; its scores are meaningless.

# %%
run = training.start(globals())

# %% [markdown]
# One batch as the network gets it, after the six random operations of [02_augmentation](02_augmentation.ipynb) and CutMix. A
# mixed image carries the labels of both its classes.

# %%
train = training.train_batches(run, augmentation.Augmentation())
images, labels = next(iter(train(start=0)))
figures.gallery(images[:12], figures.label_texts(labels[:12], run.classes))

# %% [markdown]
# ## The model
# The backbone turns pixels into maps of features, global average pooling reduces each map to one number, and the head
# turns those numbers into a probability for each class. Building it within the device's scope puts its variables on every
# replica. It takes images of any size, so that it can be evaluated at others than it was trained at.

# %%
with run.device.scope():
    backbone = networks.load(BACKBONE, None, run.weights)
    backbone.trainable = FINE_TUNE
    pooling = keras.layers.GlobalAveragePooling2D(dtype="float32")
    head = networks.head(len(run.classes), run.config.dropout)
    model = keras.Sequential([keras.Input((None, None, 3)), backbone, pooling, head])
    model.compile(training.optimizer(run), training.loss(run), metrics=["accuracy"])
model.summary()

# %% [markdown]
# The learning rate climbs during the warm-up, while the new head is still random, then falls along half a cosine to zero (in a
# smoke test of four steps the end is not reached). The weights of the last epoch are the settled ones, and the ones kept:
# to select the best epoch on the validation split would bias its score upwards.

# %%
figures.learning_rates(training.learning_rates(run), run.steps_per_epoch)

# %% [markdown]
# ## Training
# One line an epoch. The first epoch is slower: the program is compiled in it. A **checkpoint** is written at least every two
# minutes: if the session is stopped, running the notebook again in the same folder resumes from it. (On Kaggle, a saved
# version begins in an empty folder, and so from the start.)

# %%
history = training.fit(run, model, train)

# %% [markdown]
# ## Predictions and submission
# **Test-time augmentation** (TTA): the probabilities of an image are the average over `TTA_SIZES`, and over the image and its
# mirror image. Everything is saved before it is looked at; `20_ensemble` reads it from `runs/`.

# %%
val, test = training.predict(run, model)
record = training.save(run, model, history, val, test)
figures.curves(history)

# %% [markdown]
# **What you should see.** Validation is above training: training images are augmented and mixed, their labels smoothed, and
# dropout is on. The two losses are not comparable for the same reason.
#
# ## Error analysis
# Accuracy counts images, so in the competition's data 782 irises outweigh a class of 18. **Macro F1**, the competition's
# metric, averages the F1 score over the classes, so that each counts the same in spite of the **class imbalance**. The worst
# classes (`per_class.csv` in the run's folder has all):

# %%
report = evaluation.class_report(val, run.classes)
report.to_csv(f"runs/{record['name']}/per_class.csv", index=False)
figures.class_f1(report)

# %%
figures.confusion_matrix(val.confusion(), run.classes)

# %% [markdown]
# The most confident errors. Look for flowers that even you would confuse, and for labels that are wrong.

# %%
evaluation.error_gallery(run.flowers, val)

# %% [markdown]
# Where did the model look? A **class activation map** (CAM, Zhou et al., arXiv 1512.04150) is bright where a place of the image
# supports the predicted class. A model that goes by the background lights up there.

# %%
evaluation.error_gallery(run.flowers, val, model)

# %% [markdown]
# ## Try this
# 1. `TTA_SIZES = (512, 576)`: expect a slightly higher score, for three times the predictions.
# 2. `MIX = "none"`: expect a higher training accuracy and a lower validation score: overfitting.
# 3. `IMAGE_SIZE = 331`: twice as many images a second. Expect a lower score.
#
# ## Conclusion
# A network of its own architecture makes errors of its own: that is what the average in [20_ensemble](20_ensemble.ipynb) is
# for. Next: [11_xception](11_xception.ipynb).
