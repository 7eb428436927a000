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

# Name -> number of JAX devices, None where unknown. Source: Kaggle/kaggle-cli, docs/kernels.md, 2026-09.
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
RETIRED_ACCELERATORS = {"TpuV38": "TpuV5E8", "Tpu1VmV38": "TpuV5E8", "NvidiaTeslaP100": "NvidiaTeslaT4"}
GPU_SLOWDOWN = 9  # in the work this series started from: 220 s per epoch on a GPU, 25 s on a TPU v3-8


@dataclass(frozen=True)
class Kernel:
    """One notebook on Kaggle.

    Attributes:
        notebook: its name in `notebooks/`.
        title: 5 to 50 characters; Kaggle derives the slug from it.
        minutes: the expected duration of a run, to compare with the weekly quota. For those that train: 20 epochs at
            the speed of the work this series started from on a TPU v3-8, half as much again, and a quarter of an hour
            for the rest; for 03, which it did not have, a guess. Never measured on a v5e-8.
        accelerated: whether it needs a TPU or GPU; the others run on a CPU and use no quota.
        pretrained: whether it needs pretrained weights.
        packages: what it imports that Kaggle's TPU image lacks.
        sources: the notebooks whose outputs it reads.
    """

    notebook: str
    title: str
    minutes: int
    accelerated: bool = False
    pretrained: bool = False
    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return slugify(self.title)


_BACKBONE: dict[str, Any] = {"accelerated": True, "pretrained": True}
_EFFICIENTNET: dict[str, Any] = {**_BACKBONE, "packages": ("keras-efficientnet-v2",)}
_MEMBERS = (  # of the ensemble
    Kernel("00_quickstart", "Flowers 00: quickstart on a CPU", 20, pretrained=True),
    Kernel("03_finetune", "Flowers 03: EfficientNet-Lite0, fine-tuned", 20, **_BACKBONE),
    Kernel("10_densenet201", "Flowers 10: DenseNet201", 50, **_BACKBONE),
    Kernel("11_xception", "Flowers 11: Xception", 45, **_BACKBONE),
    Kernel("12_resnet152v2", "Flowers 12: ResNet152V2", 45, **_BACKBONE),
    Kernel("13_efficientnetb7", "Flowers 13: EfficientNetB7", 70, **_EFFICIENTNET),
    Kernel("14_efficientnetv2xl", "Flowers 14: EfficientNetV2XL", 45, **_EFFICIENTNET),
)
_ENSEMBLE = Kernel(
    "20_ensemble",
    "Flowers 20: ensemble of all networks",
    10,
    sources=tuple(kernel.notebook for kernel in _MEMBERS),
)
_OTHERS = (
    Kernel("01_eda", "Flowers 01: exploratory data analysis", 20),
    Kernel("02_augmentation", "Flowers 02: augmentation", 10),
    Kernel("30_tpu_vs_gpu", "Flowers 30: TPU or GPU?", 20, accelerated=True),
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
        FlowersError: `accelerator` is unknown or retired, or `shared` lacks something.
    """
    if missing := [key for key in ("machine_shape", "enable_internet", "dataset_sources") if key not in shared]:
        raise FlowersError(f"`{METADATA}` lacks `{missing[0]}`; `git checkout {METADATA}` brings it back")
    accelerator = accelerator or shared["machine_shape"]
    if accelerator not in ACCELERATORS:
        instead = (
            f"; it is retired, use {RETIRED_ACCELERATORS[accelerator]}" if accelerator in RETIRED_ACCELERATORS else ""
        )
        raise FlowersError(f"`accelerator` (={accelerator}) must be one of {', '.join(ACCELERATORS)}{instead}")
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
