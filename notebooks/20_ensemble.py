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
# # Ensemble: the average of all networks, and the final submission
#
# | goal | device | time | expect |
# |---|---|---|---|
# | compare all runs, average them, submit what is proven | a CPU is enough | half a minute | a little more than the best single network |
#
# Previous: [14_efficientnetv2xl](14_efficientnetv2xl.ipynb). Next: [30_tpu_vs_gpu](30_tpu_vs_gpu.ipynb).
#
# Networks of different architecture make different errors. Where one is undecided and another assigns a high probability,
# the average of their probabilities follows the second, and is often better than the best of them. This notebook reads
# what the runs before it saved, compares them, averages them, and writes the final submission.

# %%
import numpy as np
import pandas as pd

from flowerlib import evaluation, figures, predictions

# %% tags=["parameters"]
RUNS = ()  # the runs that take part, such as ("03_finetune", "10_densenet201"); () for all that are found
FOLDS = 5  # of the cross-validation of the averages
SEED = 0  # of the folds, and of the bootstrap

# %% [markdown]
# ## The runs
# They lie in `runs/`, or, on Kaggle, wherever it mounted the outputs of the other notebooks. All must have predicted the
# same images into the same classes, else this cell stops. Smoke tests take part only where there is nothing else.

# %%
runs = evaluation.aligned(predictions.find_runs(RUNS))
recap = evaluation.recap_table(runs)
figures.watermark("SMOKE TEST" if recap["smoke_test"].any() else None)
if len(runs) == 1:
    print("Only one run: there is nothing to average yet, and all that follows repeats it.")
recap.round(4).set_index("name").T

# %% [markdown]
# `val_loss` is log loss, the mean of -ln of the probability assigned to the true class; `layers` counts those with weights;
# `trained` is the fraction of the parameters that training changed: a few hundredths for a frozen backbone, nearly all after
# fine-tuning.

# %%
figure = figures.recap(recap)
figure.savefig("recap.png")
figure

# %% [markdown]
# The first row is the best, and was picked as such: its score is slightly optimistic. How much? A paired **bootstrap**
# estimates it ([Efron 1983](https://doi.org/10.1080/01621459.1983.10477973)): the validation images are drawn again with
# replacement, a thousand times, the same images for every run. Each time one run comes out best; how much better it is
# there than it is on average is what a score gains by being selected. Where all runs are truly alike, the bootstrap finds
# about seven tenths of it. Below, the best run is therefore picked on other images than it is scored on.

# %%
val = np.stack([run.val.probabilities for run in runs])  # (runs, images, classes)
test = np.stack([run.test.probabilities for run in runs])
labels, ids = runs[0].val.labels, runs[0].val.ids
selection = evaluation.selection_optimism(val, labels, seed=SEED)
best = recap.loc[recap["val_macro_f1"].idxmax()]
print(
    f"{best['name']}: macro F1 on val {best['val_macro_f1']:.4f}, {selection.optimism:.4f} of it by selection"
)

# %% [markdown]
# ## How different are they?
# An average helps where models err on different images. The **correlation of errors** of two models is 1 if they err on the
# same images, and 0 if the errors of one say nothing of the other's: the lower it is, the more they have to give each other.

# %%
names = [run.name for run in runs]
correlation = evaluation.error_correlation([run.val for run in runs])
figures.similarity(correlation, names, "correlation of errors")

# %% [markdown]
# **Agreement** is the fraction of validation images for which two models predict the same class; the rest is their
# disagreement. It counts all images, and so is high for any two good models; the correlation looks at the errors.

# %%
agreement = evaluation.agreement([run.val for run in runs])
figures.similarity(agreement, names, "same prediction")

# %% [markdown]
# ## Ways to average
# The simplest first:
#
# 1. **Best single run**: no average at all. What follows must beat it.
# 2. **Equal average**: the plain mean of all probabilities. Nothing is fitted, so nothing can be fitted wrongly.
# 3. **Geometric average**: the mean of their logarithms. A class that one network thinks impossible stays improbable.
# 4. **Fitted average**: the weights that maximise the likelihood of the true classes.
# 5. **Greedy average**: ensemble selection. Begin with the best run, add the one, again and again, that raises macro F1.
# 6. **Stacked average**: stacking, a logistic regression on the log-probabilities, with a weight a run and a bias a class.
# 7. **Corrected average**: class-prior correction. The equal average, divided by a power of the classes' frequencies, so
#    that rare classes, which count as much in macro F1, are predicted more often.
#
# Scored on the very images they were fitted on, the last four, and the best run, would look better than they are: *data
# leakage*. So each is scored by **cross-fitting**, cross-validation that keeps its predictions: val is cut into folds, the
# same for all, and each fold is averaged by what was fitted on the others. `low` and `high` are the interval of the
# difference to the best single run, by a paired bootstrap. One of six wins by chance more easily than one alone, so the
# intervals are widened until, 95 % of the time, those of all pairs of ways hold together.

# %%
choice = evaluation.choose(val, labels, folds=FOLDS, seed=SEED)
choice.table.round(4).set_index("name")

# %% [markdown]
# **Which one to submit?** The simplest that is not beaten. We walk down the list, and a later way replaces the one that we
# have only if the interval of its difference to that one lies above zero. The weights below are those of the fitted
# average, on the whole of val: they show what each run adds, whatever is submitted.

# %%
print(f"Submitted: {choice.name}")
figures.weights(names, evaluation.fit_weights(val, labels))

# %% [markdown]
# `recap.csv` keeps every run and every average, the best macro F1 first.

# %%
averages = [
    evaluation.average_row(name, predictions.Predictions(average, labels, ids), runs)
    for name, average in choice.averages.items()
    if name != "best single run"
]
table = pd.concat([recap, pd.DataFrame(averages)])
table = table.sort_values("val_macro_f1", ascending=False, kind="stable").reset_index(drop=True)
table.convert_dtypes().to_csv("recap.csv", index=False)
table[["name", "smoke_test", "val_macro_f1", "val_accuracy", "val_loss"]].round(4)

# %% [markdown]
# ## The submission
# What was chosen is fitted once more, on the whole of val, and averages the predictions for the test images.

# %%
final = evaluation.WAYS[choice.name](val, labels)(test)
submitted = predictions.Predictions(final, runs[0].test.labels, runs[0].test.ids)
name = "submission_smoke_test.csv" if recap["smoke_test"].any() else "submission.csv"
predictions.write_submission(submitted, name, count=runs[0].record["data"]["test"])
print(f"{name}: {len(submitted.ids):,} predictions of the {choice.name}")

# %% [markdown]
# ## Try this
# 1. `RUNS = ("00_quickstart", "03_finetune")`: expect fewer errors in common than two fine-tuned networks have.
# 2. `FOLDS = 2`: weights fitted on half of the images. Expect nearly the same score: there are few weights to fit.
# 3. `SEED = 1`: other folds. Expect a change in the fourth digit: that much of the score is chance.
#
# ## Conclusion
# Equal weights are hard to beat, and what fitting adds must be measured on other images. Where the interval reaches zero,
# the gain may be chance, and the simpler way is submitted: it has less to go wrong.
