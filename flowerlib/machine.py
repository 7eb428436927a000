"""Which machine this is: Kaggle's image, packages, cores, memory, disk. A run keeps it, so that it documents itself."""

import platform
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

from flowerlib.parallel import num_cores

PACKAGES = (
    *("jax", "jaxlib", "libtpu", "keras", "tensorflow", "tensorflow-cpu", "numpy", "pandas", "pillow"),
    *("opencv-python-headless", "keras-efficientnet-v2"),
)
IMAGE = {"git_commit": Path("/etc/git_commit"), "build_date": Path("/etc/build_date")}  # Kaggle's images have them


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of each package that is installed; by default those that results depend on."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, str | int]:
    """Return `cores`, `memory_bytes`, `free_disk_bytes`; on Kaggle also `git_commit` and `build_date`, of its image."""
    image = {name: path.read_text("utf-8").strip() for name, path in IMAGE.items() if path.is_file()}
    memory, disk = psutil.virtual_memory().total, shutil.disk_usage(Path.cwd()).free
    return {**image, "cores": num_cores(), "memory_bytes": memory, "free_disk_bytes": disk}


def describe() -> str:
    """Return versions and facts in two lines, to print."""
    found = facts()
    image = [f"image {found[name]}" for name in IMAGE if name in found]
    sizes = [
        f"{found['cores']} cores",
        f"{int(found['memory_bytes']) / 1e9:.0f} GB memory",
        f"{int(found['free_disk_bytes']) / 1e9:.0f} GB free disk",
    ]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{', '.join([*image, *sizes])}\n{packages}"
