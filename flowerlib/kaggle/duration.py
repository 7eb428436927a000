"""How long a kernel takes: an estimate, from the log of one real run and from counted operations.

The log is another author's: EfficientNetB7 on this competition, on a TPU v5e-8, at 512 px and 16 images a chip, in
float32 (SanskarSontakke/Petals-TFRecord-Pipeline, log at d69938e, 2026-04-14). Compiling took 853 s of it, a step
371 ms. Other networks are taken to compute as many operations a second, and to compile as long for a layer. Nothing of
this series has been measured on Kaggle; in bfloat16 a TPU should be faster.
"""

import math
from collections.abc import Iterable

from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.kernels import Kernel

SESSION_HOURS = 9.0  # Kaggle's limit for a session with an accelerator
WEEKLY_HOURS = {"tpu": 20, "gpu": 30}  # Kaggle's quota of a week
OPERATIONS_A_SECOND = 128 * 167.3 / 0.371  # 10^9; of the log's step of 128 images, each of which costs 167.3
COMPILE_SECONDS = 853 / 437  # for each layer with weights, of which EfficientNetB7 has 437
START_SECONDS = 937 - 853  # until the first step is done, but for compiling: devices, data, weights
END_SECONDS = 2481 - 2376  # after the last epoch: predicting val and test, writing files
# In the work this series started from: 220 s an epoch on a GPU, 25 s on a TPU v3-8. On two T4 that is 40 % of their
# peak in float32, 2 x 8.1 x 10^12 operations a second.
GPU_SLOWDOWN = 9


def minutes(kernel: Kernel, machine: str) -> int:
    """Return about how many minutes a kernel takes.

    Only computing is slower on a GPU: starting, compiling and ending are taken to be as long as on a TPU.

    Args:
        kernel: a row of `kernels.SERIES`.
        machine: its accelerator, such as `TpuV5E8`; a TPU v6e counts as a v5e, every GPU as two T4.
    """
    if kernel.work is None:
        return kernel.minutes
    computing = kernel.work.images * kernel.work.operations / OPERATIONS_A_SECOND
    slowdown = GPU_SLOWDOWN if machine.startswith("Nvidia") else 1
    fixed = START_SECONDS + COMPILE_SECONDS * kernel.work.layers + END_SECONDS
    return math.ceil((fixed + slowdown * computing) / 60)


def hours(kernels: Iterable[BuiltKernel]) -> float:
    """Return about how many hours kernels take together, each on the machine it was built for."""
    return sum(minutes(built.kernel, built.metadata["machine_shape"]) for built in kernels) / 60
