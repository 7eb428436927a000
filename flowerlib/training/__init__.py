"""Training: of whole networks (fine-tuning), and of heads on the features of a frozen one (feature extraction).

Read `config` first (the hyperparameters), then `run` (what a notebook starts with), `loop` with `optimizers` and
`checkpoints` beside it, and `record` (what a run leaves); `features`, `feature_file`, `heads` and `redense`
are feature extraction, `gallery` keeps the features of the training images.
"""

from flowerlib.training.checkpoints import History, resume_file
from flowerlib.training.config import TrainConfig, configure
from flowerlib.training.features import Features, extract_features
from flowerlib.training.heads import fit_head, predict_head, search, train_head
from flowerlib.training.loop import best_epoch, fit, prepared, time_epochs
from flowerlib.training.optimizers import learning_rate, learning_rates, loss, optimizer
from flowerlib.training.record import find_timings, save, save_timing
from flowerlib.training.redense import add_redense_layer
from flowerlib.training.run import Run, eval_batches, predict, start, train_batches

__all__ = [
    "Features",
    "History",
    "Run",
    "TrainConfig",
    "add_redense_layer",
    "best_epoch",
    "configure",
    "eval_batches",
    "extract_features",
    "find_timings",
    "fit",
    "fit_head",
    "learning_rate",
    "learning_rates",
    "loss",
    "optimizer",
    "predict",
    "predict_head",
    "prepared",
    "resume_file",
    "save",
    "save_timing",
    "search",
    "start",
    "time_epochs",
    "train_batches",
    "train_head",
]
