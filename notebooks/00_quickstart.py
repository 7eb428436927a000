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
# # Quickstart: transfer learning on a CPU, from photographs to a submission
#
# | goal | device | time | expect |
# |---|---|---|---|
# | a first honest score and a submission, by feature extraction | any, also a CPU | 1 to 3 minutes on two cores | macro F1 on val 0.92 (Oxford Flowers-102 and tulips), 0.85 to 0.91 (built-in sample, by seed) |
#
# Next: [01_eda](01_eda.ipynb) looks at the data, [03_finetune](03_finetune.ipynb) makes a quarter of the mistakes in an hour.
#
# **Transfer learning** begins with a network that was trained on something else. Ours, EfficientNet-Lite0, has been trained
# on the million photographs of ImageNet: it can already tell edges, textures and petals apart. In **feature extraction** that
# network is *frozen*, its weights never change: every image goes through it **once**, and we keep the 1,280 numbers it puts
# out, the *features*. What is trained is only a *head* on top of them, here one linear layer (a *linear probe*), and that
# takes seconds.

# %%
from flowerlib import evaluation, figures, networks, training

import keras  # after flowerlib, which chooses its backend: JAX on a TPU or GPU, TensorFlow on a CPU

# %% [markdown]
# ## Hyperparameters
# Every choice stands in the next cell, with its reason. Change one and run all again, or, in a shell,
# `flowerlib run 00_quickstart -p SIZES=256 --name quickstart-256`.

# %% tags=["parameters"]
NAME = "00_quickstart"  # of the folder `runs/NAME` that this run leaves
NETWORKS = ("EfficientNetLite0",)  # the smallest; its weights come with a pip package
SIZES = (192,)  # image sizes for each network: several stand side by side, and take longer
FINE_TUNE = False  # feature extraction: the backbone is frozen
SHRINK = False  # it is small enough for a CPU: no smoke test there
IMAGE_SIZE = 192  # of the stored images, the smallest the competition provides: quick to decode
EXTRACT_BATCH_SIZE = 64  # images a replica processes at once: fills a CPU, spares its memory
BATCH_SIZE = 128  # features in a training step of the head
EPOCHS = 40  # a fraction of a second each; 60 are no better
PEAK_LRS = (3e-4, 1e-3, 3e-3)  # candidates around AdamW's usual learning rate
WEIGHT_DECAYS = (0.03, 0.1, 0.3)  # candidates: strong, as there are few images
LABEL_SMOOTHING = 0.1  # discourages overconfidence: some labels are wrong
DROPOUT = 0.6  # on the features, so that no class relies on a few of them
SEED = 0

# %% [markdown]
# ## Device and data
# `start` takes hold of the device, finds the dataset and decodes every image once, so that a damaged file is named now. The
# dataset is the one that `FLOWERS_DATA` names, else the competition's where Kaggle mounts it, else the built-in sample.

# %%
run = training.start(globals())

# %% [markdown]
# ## Feature extraction
# A network turns pixels into maps of features, and global average pooling reduces each map to one number. The mirror
# image of every picture is processed too: twice the views to learn from and, in the end, two predictions to average.
#
# **Time against score: FixRes.** In its training the network saw crops of photographs, which show things larger than a whole
# photograph of the same size does. Enlarged images make up for that, though not one detail is added (Touvron and others,
# arXiv 1906.06423). And at another size other details catch its eye: `SIZES` may hold several, whose features then stand
# side by side. Extraction takes longer in proportion to the pixels of all sizes together: 192 and 256 px take 2.8 times as
# long as 192 px alone. `NETWORKS` may hold several too.
#
# The result is cached on disk, so the second run of this notebook is quicker. The shapes below are views, images, features.

# %%
feature_extractor = networks.feature_extractor(
    run.config.networks, run.config.sizes, run.config.image_size, run.weights
)
features = training.extract_features(run, feature_extractor)
{split: extracted.values.shape for split, extracted in features.items()}

# %% [markdown]
# ## Training the head
# How fast should the head learn, and how strongly should its weights be regularized? Nobody knows beforehand, so `fit_head`
# tries all nine pairs of learning rate and weight decay on four fifths of the training images and compares them on the
# last fifth, a *holdout*, as scikit-learn's `LogisticRegressionCV` does by cross-validation. The best pair then trains on
# all training images. The validation split takes no part in the choice, so its score stays unbiased.
# [14_efficientnetv2xl](14_efficientnetv2xl.ipynb) shows this search step by step.

# %%
run, head, history = training.fit_head(run, features, PEAK_LRS, WEIGHT_DECAYS)
print(f"chosen: learning rate {run.config.peak_lr}, weight decay {run.config.weight_decay}")
figures.curves(history)

# %% [markdown]
# **What you should see.** Validation scores climb for some epochs, then level off, while training goes on to improve: the
# head begins to learn its training images by heart. That gap is *overfitting*; dropout, weight decay and label smoothing
# keep it small. (The training curve is measured with dropout and smoothed labels, so its loss looks high.) The last epoch is
# the one kept: to select the best epoch on the validation split would bias its score upwards.
#
# ## Results and submission
# Feature extractor and head become one model, from pixels to probabilities. Everything is saved before it is looked at:
# predictions, model, record and curves in `runs/`, and the submission.

# %%
val, test = (training.predict_head(run, head, features[split]) for split in ("val", "test"))
model = keras.Sequential(
    [keras.Input(feature_extractor.input_shape[1:]), feature_extractor, *head.layers]
)
record = training.save(run, model, history, val, test, features["train"])

# %% [markdown]
# The competition is scored by **macro F1**: the F1 score of each class, averaged over the classes, so that a rare flower
# counts as much as a common one. The worst classes:

# %%
report = evaluation.class_report(val, run.classes)
report.to_csv(f"runs/{record['name']}/per_class.csv", index=False)
report.head(10).round(3)

# %% [markdown]
# The **confusion matrix** shows which class is taken for which: all images on the diagonal would be perfect.

# %%
figures.confusion_matrix(val.confusion(), run.classes)

# %% [markdown]
# And the most confident errors. Look for flowers that you would confuse too, and for labels that are wrong.

# %%
evaluation.error_gallery(run.flowers, val)


# %% [markdown]
# ## Try this
# 1. `SIZES = (192, 256)`: two sizes side by side. Expect a better score for 2.8 times the extraction.
# 2. `DROPOUT = 0` and `WEIGHT_DECAYS = (0.0,)`: expect training accuracy near 1 and a lower validation score: overfitting.
# 3. `NETWORKS = ("EfficientNetLite0", "EfficientNetLite2")`: a larger network beside it, whose weights are installed too.
# 4. `NETWORKS = ("EfficientNetV2XL",)` on a GPU, where its weights can be downloaded: expect far fewer errors.
#
# ## Conclusion
# A frozen network and a linear head reach a good score within minutes, and their errors are mostly between classes that
# look alike. [03_finetune](03_finetune.ipynb) trains the network itself on flowers.
