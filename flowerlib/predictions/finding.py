"""Find the runs that are here, and choose those that are results."""

from collections.abc import Sequence
from pathlib import Path

from flowerlib.config import MINOR, FlowersError, find_files, kaggle_input
from flowerlib.predictions import out_of_fold
from flowerlib.predictions.results import RunResult, load


def find_runs(names: Sequence[str] = ()) -> list[RunResult]:
    """Load the runs in `runs/` and wherever Kaggle mounted the outputs of other notebooks, sorted by name.

    Smoke tests are left out where there is any other run, a run that was stopped where the whole one is there, and runs
    without a score. The folds of a cross-validation are joined to one run, and left out where one is missing.

    Args:
        names: the runs to load; all unless given. Folds go by a name of their own, `NAME-fold-0`, or all together as
            `NAME-5-folds`.

    Raises:
        FlowersError: there is none, none of a name that is given, two of one name, or folds that do not fit together.
    """
    places = (Path("runs"), kaggle_input())
    folders = [path.parent for place in places for path in find_files(place, "predictions.npz")]
    if not folders:
        searched = ", ".join(f"`{place}`" for place in places)
        raise FlowersError(f"no run (a folder with predictions.npz) below {searched}; run a backbone notebook first")
    runs = [load(folder) for folder in folders]
    found = sorted(run.name for run in runs)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise FlowersError(f"run {twice[0]} is there twice, in {[str(f) for f in folders]}; remove one of them")
    chosen = _named(runs, names) if names else out_of_fold.join_complete(_with_score(_without_minor(runs)))
    if not chosen:
        raise FlowersError(f"each of the runs {', '.join(found)} is left out; name those to take (RUNS), or run others")
    return sorted(chosen, key=lambda run: run.name)


def _named(runs: list[RunResult], names: Sequence[str]) -> list[RunResult]:
    """The runs of these names; folds are joined where that is named which they make."""
    sets = out_of_fold.sets(runs)
    found = {run.name for run in runs} | sets.keys()
    if missing := sorted(set(names) - found):
        raise FlowersError(f"no run {missing[0]}; there are {', '.join(sorted(found))}")
    joined = [out_of_fold.join(name, folds) for name, folds in sets.items() if name in names]
    return [run for run in runs if run.name in names] + joined


def _with_score(runs: list[RunResult]) -> list[RunResult]:
    """The runs that left val out of their training."""
    for run in runs:
        if not run.has_score:
            print(f"{run.name} is left out: it was trained on val too, so it cannot be scored.")
    return [run for run in runs if run.has_score]


def _without_minor(runs: list[RunResult]) -> list[RunResult]:
    """The runs without smoke tests, where there are others, and without those left beside a longer one."""
    names = {run.name for run in runs}
    minor = {name for name in names if (found := MINOR.fullmatch(name)) and found["name"] in names}
    if not all(run.record["smoke_test"] for run in runs):
        minor |= {run.name for run in runs if run.record["smoke_test"]}
    for name in sorted(names & minor):
        print(f"{name} is left out: there is a whole run.")
    return [run for run in runs if run.name not in minor]
