"""The notebooks of the series as Kaggle kernels: requirements, sources and metadata of each."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slugify import slugify  # the function by which the kaggle package compares a title with its id

from flowerlib.config import FlowersError

ROOT = Path(__file__).parents[2]  # the repository, in a clone
METADATA = "kernel-metadata.json"
FLAGSHIP = "14_efficientnetv2xl"  # what the repository's own kernel-metadata.json describes
PLACEHOLDER_OWNER = "username"  # its owner until it is built
WEIGHTS_SLUG = "flowerlib-weights"

# Name -> number of JAX devices, None where unknown. Source: Kaggle/kaggle-cli, docs/kernels.md and issue 1196, 2026-09.
ACCELERATORS = {
    "TpuV5E8": 8,
    "TpuV6E8": 8,
    "NvidiaTeslaT4": 2,  # the pool of single ones is closed
    "NvidiaL4": None,
    "NvidiaL4X1": None,
    "NvidiaTeslaA100": None,
    "NvidiaH100": None,
    "NvidiaRtxPro6000": None,
}
# Retired names -> what Kaggle gives instead, according to the kaggle package 2.2.5.
RETIRED_ACCELERATORS = {"TpuV38": "TpuV5E8", "Tpu1VmV38": "TpuV5E8", "NvidiaTeslaP100": "NvidiaTeslaT4"}
# Names that Kaggle knows, but that bring no accelerator -> the reason and the remedy.
REFUSED_ACCELERATORS = {
    "NvidiaTeslaT4Highmem": "is for Kaggle's admins only; use NvidiaTeslaT4",
    "TpuV232": "is retired, and Kaggle puts it on a CPU without a word; use TpuV5E8",
    "TpuV2256": "is retired, and Kaggle puts it on a CPU without a word; use TpuV5E8",
}
EPOCH = 12_753 + 3_712 / 3  # images of the competition: all of train, and val, which costs a third: no gradients
VIEWS = 6 * 12_753 + 2 * (3_712 + 7_382)  # that 14 extracts features of


@dataclass(frozen=True)
class Work:
    """What a notebook computes on an accelerator, of which `duration.minutes` makes its time.

    Attributes:
        images: how many pass through the network.
        operations: 10^9 for each, as `python -m benchmarks tpu` counts them.
        layers: those with weights that are compiled for training; a third of them where there are no gradients.
    """

    images: float
    operations: float
    layers: float


@dataclass(frozen=True)
class Kernel:
    """One notebook on Kaggle.

    Attributes:
        notebook: its name in `notebooks/`.
        title: 5 to 50 characters; Kaggle derives the slug from it.
        work: what it computes on a TPU or GPU; the others run on a CPU and use no quota.
        minutes: the expected duration on a CPU; a guess, never measured on Kaggle.
        pretrained: whether it needs pretrained weights.
        packages: what it imports that Kaggle's TPU image lacks.
        sources: the notebooks whose outputs it reads.
    """

    notebook: str
    title: str
    work: Work | None = None
    minutes: int = 0
    pretrained: bool = False
    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return slugify(self.title)

    @property
    def accelerated(self) -> bool:
        """Whether it needs a TPU or GPU."""
        return self.work is not None


_EFFICIENTNET: dict[str, Any] = {"pretrained": True, "packages": ("keras-efficientnet-v2",)}
_LITE0 = Work(24 * EPOCH, 1.77, 99)  # at 192 px; the others at 512, 30 at 224
_DENSENET = Work(20 * EPOCH, 135.0, 402)
_XCEPTION = Work(20 * EPOCH, 144.6, 81)
_RESNET = Work(20 * EPOCH, 342.9, 307)
_B7 = Work(20 * EPOCH, 167.3, 437)
_V2XL = Work(VIEWS, 187.4, 717 / 3)
_SPEED = Work(4 * EPOCH, 25.6, 402)
_MEMBERS = (  # of the ensemble
    Kernel("00_quickstart", "Flowers 00: quickstart on a CPU", minutes=20, pretrained=True),
    Kernel("03_finetune", "Flowers 03: EfficientNet-Lite0, fine-tuned", _LITE0, pretrained=True),
    Kernel("10_densenet201", "Flowers 10: DenseNet201", _DENSENET, pretrained=True),
    Kernel("11_xception", "Flowers 11: Xception", _XCEPTION, pretrained=True),
    Kernel("12_resnet152v2", "Flowers 12: ResNet152V2", _RESNET, pretrained=True),
    Kernel("13_efficientnetb7", "Flowers 13: EfficientNetB7", _B7, **_EFFICIENTNET),
    Kernel("14_efficientnetv2xl", "Flowers 14: EfficientNetV2XL", _V2XL, **_EFFICIENTNET),
)
_ENSEMBLE = Kernel(
    "20_ensemble",
    "Flowers 20: ensemble of all networks",
    minutes=10,
    sources=tuple(kernel.notebook for kernel in _MEMBERS),
)
_OTHERS = (
    Kernel("01_eda", "Flowers 01: exploratory data analysis", minutes=20),
    Kernel("02_augmentation", "Flowers 02: augmentation", minutes=10),
    Kernel("30_tpu_vs_gpu", "Flowers 30: TPU or GPU?", _SPEED),
)
SERIES = {kernel.notebook: kernel for kernel in (*_MEMBERS, _ENSEMBLE, *_OTHERS)}  # sources first


def select(notebooks: Iterable[str] = (), *, with_sources: bool = False) -> list[Kernel]:
    """Return the kernels of the notebooks, sources first.

    Args:
        notebooks: names, numbers or words, such as `00_quickstart`, `00`, `quickstart`; all unless given.
        with_sources: also return the kernels whose outputs they read.

    Raises:
        FlowersError: an unknown notebook.
    """
    spellings = {spelling: name for name in SERIES for spelling in (name, *name.split("_", 1))}
    given = {Path(name).stem for name in notebooks}
    if unknown := sorted(given - set(spellings)):
        raise FlowersError(f"no notebook {unknown[0]!r}; there are {', '.join(sorted(SERIES))}")
    names = {spellings[name] for name in given} or set(SERIES)
    if with_sources:
        names |= {source for name in names for source in SERIES[name].sources}
    return [kernel for kernel in SERIES.values() if kernel.notebook in names]


def read(path: Path) -> dict:
    """Read a kernel-metadata.json.

    Raises:
        FlowersError: it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlowersError(f"`{path}` cannot be read ({error}); run `flowerlib kaggle build`") from None
    if not isinstance(content, dict):
        raise FlowersError(f"`{path}` must hold a JSON object, not {type(content).__name__}")
    return content


def owner(root: Path = ROOT) -> str:
    """Return the owner of the kernel that the repository's own kernel-metadata.json describes."""
    return str(read(root / METADATA).get("id", PLACEHOLDER_OWNER)).split("/")[0]


def current_accelerator(name: str) -> str:
    """Return the accelerator that Kaggle gives for a name: the name itself, or what has taken its place.

    Raises:
        FlowersError: Kaggle does not know it, or gives none for it.
    """
    if name in REFUSED_ACCELERATORS:
        raise FlowersError(f"`accelerator` (={name}) {REFUSED_ACCELERATORS[name]}")
    current = RETIRED_ACCELERATORS.get(name, name)
    if current not in ACCELERATORS:
        raise FlowersError(f"`accelerator` (={name}) must be one of {', '.join(ACCELERATORS)}")
    return current


def metadata(
    kernel: Kernel, shared: dict, user: str, *, accelerator: str | None = None, online: bool | None = None
) -> dict:
    """Return a kernel's metadata, derived from the flagship's.

    Args:
        kernel: one of `SERIES`.
        shared: the repository's own kernel-metadata.json: what is the same for all kernels, and the accelerator.
        user: the owner on Kaggle.
        accelerator: for a kernel that needs one; `shared`'s unless given.
        online: whether the kernels may use the internet; as in `shared` unless given. Offline, the weights come from
            the user's dataset `flowerlib-weights`.

    Raises:
        FlowersError: `accelerator` is unknown, or brings none, or `shared` lacks something.
    """
    if missing := [key for key in ("machine_shape", "enable_internet", "dataset_sources") if key not in shared]:
        raise FlowersError(f"`{METADATA}` lacks `{missing[0]}`; `git checkout {METADATA}` brings it back")
    accelerator = current_accelerator(accelerator or shared["machine_shape"])
    machine = accelerator if kernel.accelerated else ""
    online = shared["enable_internet"] if online is None else online
    weights = f"{user}/{WEIGHTS_SLUG}"
    datasets = [source for source in shared["dataset_sources"] if source.split("/")[-1] != WEIGHTS_SLUG]
    ref = f"{user}/{kernel.slug}"
    if ref != shared.get("id"):  # its number is of that kernel alone, which a push of another one would overwrite
        shared = {key: value for key, value in shared.items() if key != "id_no"}
    return {
        **shared,
        "id": ref,
        "title": kernel.title,
        "code_file": f"{kernel.notebook}.ipynb",
        "enable_gpu": machine.startswith("Nvidia"),
        "enable_tpu": machine.startswith("Tpu"),
        "enable_internet": online,
        "machine_shape": machine,
        "dataset_sources": datasets + ([weights] if kernel.pretrained and not online else []),
        "kernel_sources": [f"{user}/{SERIES[source].slug}" for source in kernel.sources],
    }
