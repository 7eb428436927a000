"""Fetch the competition's data, at one image size, through the official `kaggle` package.

`kaggle` lists the files and fetches single ones, and so does `kagglehub`, which would be one more dependency. Its
transfers go on where they were cut off, also in another process.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from flowerlib.config import FlowersError, exclusive_lock
from flowerlib.kaggle.errors import RateLimited, Unreachable
from flowerlib.kaggle.service import Service


def fetch(image_size: int, folder: Path, verify: Callable[[Path], None]) -> bool:
    """Fetch the competition's data at one image size into a folder, in the competition's layout.

    Until all files are there and verified they lie in a hidden folder within it, so that nobody takes a part for the
    whole. Those that are there are not fetched again.

    Args:
        image_size: side in pixels of the stored images.
        folder: gets `tfrecords-jpeg-<S>x<S>`; nothing is done where that is there.
        verify: is called with the hidden folder, which has the layout of a dataset, and raises where one is damaged.

    Returns:
        Whether they were not there already.

    Raises:
        FlowersError: nobody is logged in, the rules were not accepted, there is no such size, the disk has no room, or
            a file is damaged.
        RuntimeError: Kaggle cannot be reached or refuses; the same command goes on later.
    """

    def tell(process: str) -> None:
        print(f"Process {process} fetches into `{folder}`; waiting for it.")

    complete = folder / _name(image_size)
    try:
        with exclusive_lock(folder / ".lock", tell):
            if complete.exists():
                return False
            hidden = complete.with_name(f".{complete.name}")
            _fetch_all(image_size, hidden)
            _verify(hidden, verify)
            (hidden / complete.name).replace(complete)
            shutil.rmtree(hidden)
            return True
    except RateLimited as error:
        raise RuntimeError(f"{error}; run the same command again in some minutes, what has arrived is kept") from None
    except Unreachable as error:
        raise RuntimeError(f"{error}; run the same command again, what has arrived is kept") from None
    except OSError as error:
        raise FlowersError(f"`{folder}` cannot be written ({error.strerror}); name another folder with --to") from None


def _name(image_size: int) -> str:
    return f"tfrecords-jpeg-{image_size}x{image_size}"


def _fetch_all(image_size: int, folder: Path) -> None:
    service = Service()
    files = _of_size(service.competition_files(), image_size)
    _require_room(folder.parent, sum(size for path, size in files.items() if not (folder / path).exists()))
    with tqdm(total=sum(files.values()), desc="fetching", unit="B", unit_scale=True, leave=False) as bar:
        for path, size in files.items():
            if not (folder / path).exists():
                arrived = service.download_competition_file(path, folder / "parts")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                arrived.replace(folder / path)
            bar.update(size)


def _of_size(files: dict[str, int], image_size: int) -> dict[str, int]:
    """The files of one image size, of all of the competition's with their sizes in bytes."""
    chosen = {path: size for path, size in files.items() if path.startswith(f"{_name(image_size)}/")}
    if not chosen:
        found = {int(match[1]) for path in files if (match := re.match(r"tfrecords-jpeg-(\d+)x\1/", path))}
        raise FlowersError(f"`--size` (={image_size}) must be one of {', '.join(map(str, sorted(found)))}")
    return chosen


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FlowersError(
            f"`{folder}` has {free / 1e9:,.1f} GB of room and {needed / 1e9:,.1f} GB are to come; make room, or name "
            "another folder with --to"
        )


def _verify(folder: Path, verify: Callable[[Path], None]) -> None:
    try:
        verify(folder)
    except FlowersError as error:
        raise FlowersError(f"{error} (remove it, and run the same command again)") from None
