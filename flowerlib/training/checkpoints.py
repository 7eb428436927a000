"""Keep the state of a training after an epoch, and resume from it."""

import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flowerlib import __version__
from flowerlib.accelerator import keras, tf
from flowerlib.config import atomic_write, set_aside
from flowerlib.data import Flowers
from flowerlib.training.config import TrainConfig

History = dict[str, list[float]]
ROUNDING = 1.0  # of 255


def resume_file(config: TrainConfig) -> Path:
    """Return where `fit` keeps what a resume needs, until the run's record is written."""
    return config.folder / "resume.npz"


def training_state(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, the states of random layers such as dropout, the optimiser's moments."""
    return [*model.variables, *model.optimizer.variables]


def describe_training(
    model: keras.Model, train: tf.data.Dataset, config: TrainConfig, flowers: Flowers
) -> dict[str, object]:
    """What a kept state belongs to. The first batch tells how images are decoded, varied and mixed."""
    return {
        "config": asdict(config),
        "data": flowers.fingerprint,
        "classes": list(flowers.classes),
        "network": [[*variable.shape] for variable in training_state(model)],
        "first batch": [_coarsely(part) for part in next(iter(train))],
        "flowerlib": __version__,
    }


def _coarsely(part: tf.Tensor) -> list:
    """The first rows of a batch; of images 4 x 4 means, in which processors differ by less than `ROUNDING`."""
    rows = tf.cast(part[:8], tf.float32)
    return (tf.image.resize(rows, (4, 4), antialias=True) if len(rows.shape) == 4 else rows[:, :200]).numpy().tolist()


def _is_same(one: object, other: object) -> bool:
    """Whether two parts of `describe_training` agree; numbers that follow from images may be rounded."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return abs(one - other) <= ROUNDING if isinstance(one, float) and isinstance(other, float) else one == other


def write_checkpoint(model: keras.Model, what: dict, config: TrainConfig, history: History) -> None:
    """Write weights, optimizer state and history, with what they belong to, whole or not at all."""
    arrays = {f"{index}": keras.ops.convert_to_numpy(value) for index, value in enumerate(training_state(model))}
    with atomic_write(resume_file(config)) as temporary:
        np.savez(temporary, what=json.dumps(what), history=json.dumps(history), **arrays)


def read_checkpoint(model: keras.Model, what: dict, config: TrainConfig) -> History:
    """Load what was kept of this training, if there is something, into a prepared model; return history."""
    if not resume_file(config).exists():
        return {}
    try:
        with open(resume_file(config), "rb") as file, np.load(file) as kept:
            theirs, history = json.loads(str(kept["what"])), json.loads(str(kept["history"]))
            differs = [name for name in what if not _is_same(theirs.get(name), what[name])]
            values = [] if differs else [kept[f"{index}"] for index in range(len(training_state(model)))]
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        differs = [f"bytes than were written, as it seems ({error})"]
    if differs:
        aside, other = set_aside(resume_file(config)).name, ", ".join(differs)
        print(f"`{resume_file(config)}` has other {other}; it is set aside as `{aside}`, training begins anew.")
        return {}
    for variable, value in zip(training_state(model), values, strict=True):
        variable.assign(value)
    return history
