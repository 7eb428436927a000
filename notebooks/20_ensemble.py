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
# | compare all runs, average them, submit the best | a CPU is enough | half a minute | a little more than the best single network |
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
FOLDS = 5  # of the cross-validation of the ensemble weights
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
# ## How different are they?
# An average helps where models err on different images. The agreement of two models is the fraction of validation images
# for which they predict the same class: two models with the same accuracy and little agreement have much to give each other.

# %%
agreement = evaluation.agreement([run.val for run in runs])
figures.similarity(agreement, [run.name for run in runs], "same prediction")

# %% [markdown]
# ## Equal weights
# The plain mean of all probabilities. Nothing is chosen, so nothing can be chosen wrongly.

# %%
val = np.stack([run.val.probabilities for run in runs])  # (runs, images, classes)
test = np.stack([run.test.probabilities for run in runs])
labels, ids = runs[0].val.labels, runs[0].val.ids
equal = predictions.Predictions(evaluation.weighted_average(val), labels, ids)
pd.Series(equal.scores()).round(4)

# %% [markdown]
# ## Fitted weights
# The weights that maximise the likelihood of the true classes of the validation split. Scored on the very images they were
# fitted on, they would look better than they are: *data leakage*. So they are scored by **cross-validation**: the split is
# cut into folds, and each fold is averaged with weights fitted on the other folds. The weights for the test images are
# fitted on the whole validation split.

# %%
cross_fitted = evaluation.cross_fitted(val, labels, folds=FOLDS, seed=SEED)
fitted = predictions.Predictions(cross_fitted, labels, ids)
weights = evaluation.fit_weights(val, labels)
pd.Series(fitted.scores()).round(4)

# %%
figures.weights([run.name for run in runs], weights)

# %% [markdown]
# ## Which one to submit
# Every run and both averages, the best macro F1 first. We submit the first row. As it was selected on this score, the score
# is slightly optimistic.

# %%
averages = [
    evaluation.average_row(*row, runs)
    for row in (("equal average", equal), ("fitted average", fitted))
]
table = pd.concat([recap, pd.DataFrame(averages)]).sort_values(
    "val_macro_f1", ascending=False, kind="stable"
)
table = table.reset_index(drop=True)
table.convert_dtypes().to_csv("recap.csv", index=False)
table[["name", "smoke_test", "val_macro_f1", "val_accuracy", "val_loss"]].round(4)

# %% [markdown]
# How optimistic? A paired **bootstrap** estimates it ([Efron 1983](https://doi.org/10.1080/01621459.1983.10477973)): the
# validation images are drawn again with replacement, a thousand times, the same images for every row. Each time one row
# comes out best; how much better it is there than it is on average is what a score gains by being selected. Where all rows
# are truly alike, the bootstrap finds about seven tenths of it. The same draws give the interval of the difference between
# the first row and the second: if it reaches zero, another validation split might have put them the other way round.

# %%
scored = {run.name: run.val.probabilities for run in runs}
scored |= {"equal average": equal.probabilities, "fitted average": fitted.probabilities}
ranked = np.stack([scored[name] for name in table["name"]])
selection = evaluation.selection_optimism(ranked, labels, seed=SEED)
best, second = table.loc[0], table.loc[1]
print(
    f"{best['name']}: macro F1 on val {best['val_macro_f1']:.4f}, {selection.optimism:.4f} of it by selection"
)
print(f"better than {second['name']} by {selection.low:.4f} to {selection.high:.4f} (95 %)")

# %% [markdown]
# ## The submission

# %%
submitted = {run.name: run.test.probabilities for run in runs}
submitted["equal average"] = evaluation.weighted_average(test)
submitted["fitted average"] = evaluation.weighted_average(test, weights)
final = predictions.Predictions(submitted[best["name"]], runs[0].test.labels, runs[0].test.ids)
name = "submission_smoke_test.csv" if best["smoke_test"] else "submission.csv"
predictions.write_submission(final, name, count=runs[0].record["data"]["test"])
print(f"{name}: {len(final.ids):,} predictions of {best['name']}")

# %% [markdown]
# ## Try this
# 1. `RUNS = ("00_quickstart", "03_finetune")`: expect fewer errors in common than two fine-tuned networks have.
# 2. `FOLDS = 2`: weights fitted on half of the images. Expect nearly the same score: there are few weights to fit.
# 3. `SEED = 1`: other folds. Expect a change in the fourth digit: that much of the score is chance.
#
# ## Conclusion
# Equal weights are hard to beat, and what fitting adds must be measured by cross-validation. The submission is the row with
# the best score on val, and its score is a little optimistic, by about as much as the rows next to it differ by chance.
