"""The notebooks of the series as Kaggle kernels: what each needs, which feeds which, and its metadata."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slugify import slugify  # the function by which the kaggle package compares a title with its id

from flowerlib.config import FlowersError

ROOT = Path(__file__).parents[2]  # of a clone
METADATA = "kernel-metadata.json"
FLAGSHIP = "14_efficientnetv2xl"  # what the kernel-metadata.json at the top of the repository describes
NOBODY = "username"  # its owner until it is built for somebody
WEIGHTS_SLUG = "flowerlib-weights"

# Name -> how many devices JAX sees there, None where we do not know. Kaggle/kaggle-cli, docs/kernels.md, 2026-09.
ACCELERATORS = {
    "TpuV5E8": 8,
    "TpuV6E8": 8,
    "NvidiaTeslaT4": None,
    "NvidiaTeslaT4Highmem": None,
    "NvidiaL4": None,
    "NvidiaL4X1": None,
    "NvidiaTeslaA100": None,
    "NvidiaH100": None,
    "NvidiaRtxPro6000": None,
}
RETIRED = {"TpuV38": "TpuV5E8", "Tpu1VmV38": "TpuV5E8", "NvidiaTeslaP100": "NvidiaTeslaT4"}
GPU_SLOWDOWN = 9  # the work this series started from: 220 s an epoch on a GPU, 25 s on a TPU v3-8


@dataclass(frozen=True)
class Kernel:
    """One notebook on Kaggle.

    Attributes:
        notebook: its name in `notebooks/`.
        title: 5 to 50 characters; Kaggle makes the slug of it.
        minutes: what a run should take there, to hold against the weekly quota. For those that train: 20 epochs at the
            seconds that the work this series started from took on a TPU v3-8, half as much again, and a quarter of an
            hour for the rest; for 03, which it had not, a guess. Never measured on a v5e-8.
        accelerated: whether it needs a TPU or GPU; the others run on a CPU and cost no quota.
        pretrained: whether it needs pretrained weights.
        carries: packages it uses that Kaggle's TPU image lacks.
        sources: the notebooks whose outputs it reads.
    """

    notebook: str
    title: str
    minutes: int
    accelerated: bool = False
    pretrained: bool = False
    carries: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return slugify(self.title)


_BACKBONE = {"accelerated": True, "pretrained": True}
_PACKAGE = {**_BACKBONE, "carries": ("keras-efficientnet-v2",)}
_FEEDING = (
    Kernel("00_quickstart", "Flowers 00: quickstart on a CPU", 20, pretrained=True),
    Kernel("03_finetune", "Flowers 03: EfficientNet-Lite0, fine-tuned", 20, **_BACKBONE),
    Kernel("10_densenet201", "Flowers 10: DenseNet201", 50, **_BACKBONE),
    Kernel("11_xception", "Flowers 11: Xception", 45, **_BACKBONE),
    Kernel("12_resnet152v2", "Flowers 12: ResNet152V2", 45, **_BACKBONE),
    Kernel("13_efficientnetb7", "Flowers 13: EfficientNetB7", 70, **_PACKAGE),
    Kernel("14_efficientnetv2xl", "Flowers 14: EfficientNetV2XL", 45, **_PACKAGE),
)
_ENSEMBLE = Kernel(
    "20_ensemble",
    "Flowers 20: all networks together",
    10,
    sources=tuple(kernel.notebook for kernel in _FEEDING),
)
_OTHERS = (
    Kernel("01_eda", "Flowers 01: before any network", 20),
    Kernel("02_augmentation", "Flowers 02: augmentation", 10),
    Kernel("30_tpu_vs_gpu", "Flowers 30: TPU or GPU?", 20, accelerated=True),
)
SERIES = {kernel.notebook: kernel for kernel in (*_FEEDING, _ENSEMBLE, *_OTHERS)}  # a source before what it feeds


def chosen(notebooks: Iterable[str] = (), *, with_sources: bool = False) -> list[Kernel]:
    """Return the kernels of the notebooks named, all unless named, each after those that feed it.

    Args:
        notebooks: names, with or without `.ipynb`.
        with_sources: also return the kernels that feed them.

    Raises:
        FlowersError: an unknown notebook.
    """
    names = {Path(name).stem for name in notebooks} or set(SERIES)
    if unknown := sorted(names - set(SERIES)):
        raise FlowersError(f"no notebook {unknown[0]!r}; there are {', '.join(sorted(SERIES))}")
    if with_sources:
        names |= {source for name in names for source in SERIES[name].sources}
    return [kernel for kernel in SERIES.values() if kernel.notebook in names]


def read(path: Path) -> dict:
    """Read a kernel-metadata.json.

    Raises:
        FlowersError: it is not there, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlowersError(f"`{path}` cannot be read ({error}); run `flowerlib kaggle build`") from None
    if not isinstance(content, dict):
        raise FlowersError(f"`{path}` must hold a JSON object, not {type(content).__name__}")
    return content


def owner(root: Path = ROOT) -> str:
    """Return whose kernel the kernel-metadata.json at the top of the repository describes."""
    return str(read(root / METADATA).get("id", NOBODY)).split("/")[0]


def metadata(
    kernel: Kernel, shared: dict, user: str, *, accelerator: str | None = None, online: bool | None = None
) -> dict:
    """Return a kernel's metadata, derived from the flagship's.

    Args:
        kernel: one of `SERIES`.
        shared: the kernel-metadata.json at the top of the repository: what is the same for all, and the accelerator.
        user: the owner on Kaggle.
        accelerator: for a kernel that needs one; `shared`'s unless given.
        online: whether the kernels may use the internet; as in `shared` unless given. Without it the weights come from
            the user's dataset `flowerlib-weights`.

    Raises:
        FlowersError: `accelerator` is unknown or retired, or `shared` lacks something.
    """
    if missing := [key for key in ("machine_shape", "enable_internet", "dataset_sources") if key not in shared]:
        raise FlowersError(f"`{METADATA}` lacks `{missing[0]}`; `git checkout {METADATA}` brings it back")
    accelerator = accelerator or shared["machine_shape"]
    if accelerator not in ACCELERATORS:
        instead = f"; it is retired, use {RETIRED[accelerator]}" if accelerator in RETIRED else ""
        raise FlowersError(f"`accelerator` (={accelerator}) must be one of {', '.join(ACCELERATORS)}{instead}")
    machine = accelerator if kernel.accelerated else ""
    online = shared["enable_internet"] if online is None else online
    weights = f"{user}/{WEIGHTS_SLUG}"
    datasets = [source for source in shared["dataset_sources"] if source.split("/")[-1] != WEIGHTS_SLUG]
    return {
        **shared,
        "id": f"{user}/{kernel.slug}",
        "title": kernel.title,
        "code_file": f"{kernel.notebook}.ipynb",
        "enable_gpu": machine.startswith("Nvidia"),
        "enable_tpu": machine.startswith("Tpu"),
        "enable_internet": online,
        "machine_shape": machine,
        "dataset_sources": datasets + ([weights] if kernel.pretrained and not online else []),
        "kernel_sources": [f"{user}/{SERIES[source].slug}" for source in kernel.sources],
    }
