"""Write the competition's submission file."""

import csv
from pathlib import Path

from flowerlib.config import FlowersError, atomic_write
from flowerlib.predictions.inference import Predictions


def write_submission(test: Predictions, path: Path, *, count: int) -> None:
    """Write `id,label`, one row for each test image, in file order.

    Args:
        test: predictions for the test split.
        path: the CSV to write.
        count: how many rows there must be: the images of the test split.

    Raises:
        FlowersError: the number of rows is another, or an id is there twice.
    """
    if len(test.ids) != count:
        raise FlowersError(f"{len(test.ids)} predictions for {count} test images; predict the whole test split")
    if len(set(test.ids)) != count:
        raise FlowersError(f"{count - len(set(test.ids))} test ids are there twice; run `flowerlib check`")
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"])
        writer.writerows(zip(test.ids.tolist(), test.predicted.tolist(), strict=True))
