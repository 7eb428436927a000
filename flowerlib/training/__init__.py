"""Training: of whole networks, and of heads on the features of a frozen one.

Read `config` first (every choice of a run), then `loop`, with `optimizers` and `checkpoints` beside it; `features` and
`heads` are transfer learning with a frozen network, `record` is what a run leaves.
"""

from flowerlib.training.checkpoints import History, resume_file
from flowerlib.training.config import TrainConfig, configure
from flowerlib.training.loop import best_epoch, fit, forced, longer_run, prepared, time_epochs
from flowerlib.training.optimizers import learning_rate, optimizer

__all__ = [
    "History",
    "TrainConfig",
    "best_epoch",
    "configure",
    "fit",
    "forced",
    "learning_rate",
    "longer_run",
    "optimizer",
    "prepared",
    "resume_file",
    "time_epochs",
]
