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
# # All networks together
#
# Networks of different build make different mistakes. Where one is unsure and another is sure, the average of their
# probabilities listens to the sure one, and is often better than the best of them. This notebook reads what the runs
# before it left, compares them, averages them, and writes the final submission. It needs no accelerator.

# %%
import numpy as np
import pandas as pd

from flowerlib.evaluation import ensemble
from flowerlib import figures, predictions

# %% tags=["parameters"]
FOLDS = 5  # parts of the validation split, for weights that are fitted without the images they are judged on
SEED = 0  # of the division into parts, and of the bootstrap

# %% [markdown]
# ## The runs
# They lie in `runs/`, or, on Kaggle, wherever it mounted the outputs of the other notebooks. All must have predicted
# the same images into the same classes, else this cell stops.

# %%
runs = ensemble.aligned(predictions.find_runs())
recap = ensemble.recap_table(runs)
if len(runs) == 1:
    print("Only one run: there is nothing to average yet, and all that follows repeats it.")
recap.style.format(precision=4, thousands=",").hide(axis="index")

# %% [markdown]
# `val_loss` is the mean of -ln of the probability given to the true class; `layers` counts those with weights; `trained`
# is the share of the parameters that training changed: a few hundredths where only a head was trained, nearly all where
# the whole network was. Rows marked as a smoke test come from a run that was shrunk to show that everything works; they
# say nothing about the network.

# %%
figure = figures.recap(recap)
figure.savefig("recap.png")
figure

# %% [markdown]
# ## Equal weights
# The plain mean of all probabilities. Nothing is chosen, so nothing can be chosen wrongly.

# %%
val, test = (
    np.stack([getattr(run, split).probabilities for run in runs]) for split in ("val", "test")
)
truth, answers = runs[0].val, runs[0].test
equal = predictions.Predictions(ensemble.weighted_average(val), truth.labels, truth.ids)
{name: round(score, 4) for name, score in equal.scores().items()}

# %% [markdown]
# ## Fitted weights
# The weights that make the true classes of the validation split most likely. Judged on the very images they were fitted
# on, they would look better than they are. So the split is cut into parts, and each part is averaged with weights fitted
# on the other parts: the score below is honest. For the test images, the weights come from the whole validation split.

# %%
cross_fitted = ensemble.cross_fitted(val, truth.labels, folds=FOLDS, seed=SEED)
fitted = predictions.Predictions(cross_fitted, truth.labels, truth.ids)
shares = ensemble.fit_weights(val, truth.labels)
{name: round(score, 4) for name, score in fitted.scores().items()}

# %%
figures.weights([run.name for run in runs], shares, smoke_test=bool(recap["smoke_test"].any()))

# %% [markdown]
# ## The choice
# Every run and both averages, the best macro F1 first. The first row answers for the test images. It was chosen by this
# very score, so its score is a little flattered; by how much is estimated below.

# %%
averages = [
    ensemble.average_row("equal average", equal, runs),
    ensemble.average_row("fitted average", fitted, runs),
]
table = pd.concat([recap, pd.DataFrame(averages)]).sort_values(
    "val_macro_f1", ascending=False, ignore_index=True, kind="stable"
)
table.convert_dtypes().to_csv("recap.csv", index=False)
table[["name", "smoke_test", "val_macro_f1", "val_accuracy", "val_loss"]].style.format(
    precision=4
).hide(axis="index")

# %% [markdown]
# ## What choosing adds
# A paired bootstrap, for the *optimism* of the choice ([Efron 1983](https://doi.org/10.1080/01621459.1983.10477973)): the
# images of the validation split are drawn again with replacement, a thousand times, the same images for every row. Each
# time one row comes out best; how much better it is there than it usually is, in the mean, is what a score gains by being
# chosen for being high. Subtracted, it corrects the first row's. That is still a little too kind: where all rows are truly
# alike, the bootstrap finds about seven tenths of it.
#
# The same draws tell how far the first row and the next can be told apart: if the interval, which holds 95 % of their
# differences, reaches zero, another validation split might have put them the other way round.

# %%
judged = {run.name: run.val.probabilities for run in runs}
judged |= {"equal average": equal.probabilities, "fitted average": fitted.probabilities}
choice = ensemble.selection_optimism(
    np.stack([judged[name] for name in table["name"]]), truth.labels, seed=SEED
)
best = table.loc[0]
corrected = best["val_macro_f1"] - choice.optimism
mark = "SMOKE TEST, no result: " if best["smoke_test"] else ""
print(
    f"{mark}{best['name']}: macro F1 on val {best['val_macro_f1']:.4f}, "
    f"less {choice.optimism:.4f} for the choice {corrected:.4f}"
)
print(f"better than {table.loc[1, 'name']} by {choice.low:.4f} to {choice.high:.4f} (95 %)")

# %% [markdown]
# ## The submission

# %%
choices = {run.name: run.test.probabilities for run in runs}
choices |= {
    "equal average": ensemble.weighted_average(test),
    "fitted average": ensemble.weighted_average(test, shares),
}
final = predictions.Predictions(choices[best["name"]], answers.labels, answers.ids)
name = "submission_smoke_test.csv" if best["smoke_test"] else "submission.csv"
predictions.write_submission(final, name, count=runs[0].record["data"]["test"])
print(
    f"{mark}{name}: {len(final.ids):,} answers of {best['name']}, macro F1 on val {best['val_macro_f1']:.4f}, "
    f"corrected {corrected:.4f}"
)
