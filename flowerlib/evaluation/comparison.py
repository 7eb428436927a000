"""Compare two runs: is the difference between them more than chance?"""

from dataclasses import dataclass

import numpy as np

from flowerlib.evaluation.ensemble import aligned, resampled_macro_f1
from flowerlib.predictions import RunResult


@dataclass(frozen=True)
class Comparison:
    """The second run against the first, on val.

    Attributes:
        macro_f1: of the first and of the second.
        low: of the 95 % interval of the difference in macro F1, second minus first.
        high: its other end.
        gained: images that the second has right and the first wrong.
        lost: images that the first has right and the second wrong.
    """

    macro_f1: tuple[float, float]
    low: float
    high: float
    gained: int
    lost: int

    @property
    def difference(self) -> float:
        """Macro F1 of the second minus that of the first."""
        return self.macro_f1[1] - self.macro_f1[0]

    def __str__(self) -> str:
        first, second = self.macro_f1
        return (
            f"macro F1 on val {first:.4f} -> {second:.4f}: {verdict(self.difference, self.low, self.high)}, 95 %, "
            f"paired bootstrap; {self.gained} images gained, {self.lost} lost"
        )


def verdict(difference: float, low: float, high: float) -> str:
    """Say in words what a difference and its interval mean, such as `better by 0.004 (0.001 to 0.008)`."""
    if low > 0:
        return f"better by {difference:.3f} ({low:.3f} to {high:.3f})"
    if high < 0:
        return f"worse by {-difference:.3f} ({-high:.3f} to {-low:.3f})"
    return f"no evidence of a difference ({low:z.3f} to {high:z.3f})"


def compare(first: RunResult, second: RunResult, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare two runs on the same validation images by a paired bootstrap.

    The images are drawn again with replacement, the same for both runs; the interval holds 95 % of the differences.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    Args:
        first: a run.
        second: another run on the same images; they may be in another order.
        resamples: how often the images are drawn.
        seed: of the draws.

    Raises:
        FlowersError: the runs have other images, labels or classes.
    """
    first, second = aligned([first, second])
    labels = first.val.labels
    times = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), resamples)
    probabilities = np.stack([first.val.probabilities, second.val.probabilities])
    drawn = resampled_macro_f1(probabilities, labels, times)  # (2, resamples)
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5])
    right = [run.val.predicted == labels for run in (first, second)]
    scores = first.val.scores()["macro_f1"], second.val.scores()["macro_f1"]
    return Comparison(
        scores, float(low), float(high), int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    )
