"""A checkpoint: the state of a training after an epoch, and all that must be the same to resume from it."""

import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flowerlib import __version__
from flowerlib.accelerator import keras, tf
from flowerlib.config import atomic_write, set_aside
from flowerlib.training.config import TrainConfig
from flowerlib.training.run import Run

History = dict[str, list[float]]
ROUNDING = 1.0  # of 255
AFTER_TRAINING = ("hours", "tta_sizes", "tta_flip")  # another session may choose these anew and resume
DAMAGE = (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error)


def resume_file(config: TrainConfig) -> Path:
    """Return where the checkpoint of a run is, until the run's record is written."""
    return config.folder / "resume.npz"


class Checkpoint:
    """The checkpoint of one training.

    Args:
        run: what is trained; its folder is used.
        model: compiled, with the variables of its optimizer already made.
        train: the training batches from the first one on; the first tells how images are decoded, augmented and mixed.
    """

    def __init__(self, run: Run, model: keras.Model, train: tf.data.Dataset) -> None:
        # All that training changes: weights, the states of random layers such as dropout, the optimizer's moments.
        self.state = [*model.variables, *model.optimizer.variables]
        self.path = resume_file(run.config)
        config = {name: value for name, value in asdict(run.config).items() if name not in AFTER_TRAINING}
        self.training = {
            "config": json.loads(json.dumps(config)),  # with lists instead of tuples, as it is read
            "data": run.flowers.fingerprint,
            "classes": list(run.classes),
            "network": [[*variable.shape] for variable in self.state],
            "first batch": [_summary(part) for part in next(iter(train))],
            "flowerlib": __version__,
        }

    def write(self, history: History) -> None:
        """Write the state and the history, whole or not at all."""
        arrays = {f"{index}": keras.ops.convert_to_numpy(value) for index, value in enumerate(self.state)}
        with atomic_write(self.path) as temporary:
            np.savez(temporary, training=json.dumps(self.training), history=json.dumps(history), **arrays)

    def read(self) -> History:
        """Load the state, if there is one of this training, into the model; return the history up to there.

        What belongs to another training, or is damaged, is set aside, with a line that says so.
        """
        if not self.path.exists():
            return {}
        try:
            with open(self.path, "rb") as file, np.load(file) as saved:
                training, history = (json.loads(str(saved[name])) for name in ("training", "history"))
                differs = [name for name, own in self.training.items() if not _is_same(training.get(name), own)]
                values = [] if differs else [saved[f"{index}"] for index in range(len(self.state))]
        except DAMAGE as error:
            differs = [f"bytes than were written, as it seems ({error})"]
        if differs:
            aside, other = set_aside(self.path).name, ", ".join(differs)
            print(f"`{self.path}` has other {other}; it is set aside as `{aside}`, training begins anew.")
            return {}
        for variable, value in zip(self.state, values, strict=True):
            variable.assign(value)
        return history


def _summary(part: tf.Tensor) -> list:
    """The first rows of a batch; of images 4 x 4 means, in which processors differ by less than `ROUNDING`."""
    rows = tf.cast(part[:8], tf.float32)
    return (tf.image.resize(rows, (4, 4), antialias=True) if len(rows.shape) == 4 else rows[:, :200]).numpy().tolist()


def _is_same(one: object, other: object) -> bool:
    """Whether two descriptions agree; numbers that follow from images may be rounded."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return abs(one - other) <= ROUNDING if isinstance(one, float) and isinstance(other, float) else one == other
