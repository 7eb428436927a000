"""Shared utilities: the error type, the places, atomic writing, locks, checksums, records of earlier versions.

Three environment variables name places, `FLOWERS_DATA`, `FLOWERS_WEIGHTS` and `FLOWERS_KAGGLE` (what is `/kaggle` on
Kaggle); four more say how to run, `FLOWERS_EXPECT` (the device that must be there), `FLOWERS_PROFILE` (`full` or
`smoke`), `FLOWERS_PRECISION` (a policy of Keras) and `FLOWERS_FORCE` (a shorter run may replace a longer one).
flowerlib has no other settings; `KERAS_BACKEND`, `KERAS_HOME` and `XDG_CACHE_HOME` mean what they mean
elsewhere.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

# Variables that name a place; `KERAS_HOME` and those after it are read by other libraries too.
PATH_VARIABLES = (
    "FLOWERS_DATA",
    "FLOWERS_KAGGLE",
    "FLOWERS_WEIGHTS",
    "KERAS_HOME",
    "XDG_CACHE_HOME",
    "JAX_COMPILATION_CACHE_DIR",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CURL_CA_BUNDLE",
)
COMPETITION = "tpu-getting-started"  # its slug on Kaggle
WITHOUT_ACCELERATOR = "this session started without its accelerator"  # by which `kaggle run` knows it from the log
# The machine and the process that make it, and what it is to be.
TEMPORARY = re.compile(r"\.flowerlib-(.*?)-(\d+)\.(.+?)(\.former)?")
STALE_SECONDS = 24 * 3600  # seconds without a change, after which another machine's temporary counts as abandoned
SMOKE_TEST, UNFINISHED = "-smoke-test", "-unfinished"  # in the names of runs that are no results, or no whole ones
MINOR = re.compile(rf"(?P<name>.+?)(?P<suffix>({SMOKE_TEST}|{UNFINISHED})(-\d+)?)")
SAMPLE_VERSION = 2  # raise it when anything drawn changes: a sample made before is then not taken for this one


# Keys of records that earlier versions wrote -> what they are called now.
RENAMED_KEYS = {
    "rehearsal": "smoke_test",
    "retrained": "fine_tuned",
    "choices": "config",
    "retrain": "fine_tune",
    "head_times": "head_lr_multiplier",
    "mixed": "mix_probability",
    "frozen_before": "first_trainable_layer",
}


class FlowersError(ValueError):
    """Something the user can put right; the message names the thing, its value and the remedy."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows, as IPython asks for it: the message without a traceback."""
        return [f"{type(self).__name__}: {self}"]


def run_name(name: str, fold: object = None, train_on: object = "train") -> str:
    """Return the name of a run; that of a fold, and of a training on train and val, says so: they lie side by side."""
    suffix = f"-fold-{fold}" if fold is not None else "" if train_on == "train" else "-train-val"
    return name.removesuffix(suffix) + suffix


def absolute(place: str) -> str:
    """Return a place as one calls it from any folder: `~` expanded, a relative path absolute, an address as it is."""
    return place if "://" in place else str(Path(os.path.expanduser(place)).resolve())


def kaggle_input() -> Path:
    """Return the folder below which Kaggle mounts datasets, weights and the outputs of other notebooks.

    Where below it differs from image to image, so whatever is needed is searched for.
    """
    return Path(absolute(os.environ.get("FLOWERS_KAGGLE") or "/kaggle")) / "input"


def competition_mounts() -> tuple[Path, Path]:
    """Return the two folders in which Kaggle mounts the competition's data: today's, and that of older images."""
    return kaggle_input() / "competitions" / COMPETITION, kaggle_input() / COMPETITION


def competition_dir() -> Path:
    """Return the folder in which `flowerlib data` keeps the competition's data."""
    return cache_dir() / "competition"


def find_files(folder: Path, name: str) -> list[Path]:
    """Return every file of that name below the folder, sorted.

    Links are followed, but no folder is entered twice, and none that is hidden: it may be half written.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
        elif name in files:
            found.append(Path(here) / name)
        seen.add(real)
    return sorted(found)


def cache_dir() -> Path:
    """Return the folder for what is made once and kept: `$XDG_CACHE_HOME/flowerlib` or `~/.cache/flowerlib`."""
    return Path(absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "flowerlib"


def sample_dir() -> Path:
    """Return the folder in which `flowerlib run --sample` keeps the built-in synthetic dataset."""
    return cache_dir() / f"sample-{SAMPLE_VERSION}"


def read_record(path: Path) -> dict:
    """Read the `run.json` or `timing.json` of a run; keys of earlier versions get the present names.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """

    def renamed(record: dict) -> dict:
        return {RENAMED_KEYS.get(key, key): value for key, value in record.items()}

    return json.loads(path.read_text("utf-8"), object_hook=renamed)


def written_score(record: Mapping[str, Any], metric: str = "macro_f1") -> str:
    """Return a run's score on val as `0.9123`; that there is none, where it was trained on val too."""
    value = record.get(f"val_{metric}")
    return "none" if value is None else f"{value:.4f}"


@contextmanager
def suppress_native_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr: TensorFlow greets every import with six lines, at any log level."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` on success, remove it on any failure.

    Works for a file and for a folder (an existing folder at `path` is replaced), so that a reader
    never sees half of either. The temporary name ends like `path`'s, which Keras and NumPy go by.
    What a killed process left of its own attempt is removed first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".flowerlib-{_machine()}-{os.getpid()}.{path.name}")
    former = temporary.with_name(f"{temporary.name}.former")
    remove_stale_temporaries(path.parent, path.name)
    try:
        yield temporary
        temporary.stat()  # nothing written is an error, raised before anything is moved
        if path.is_dir():
            path.replace(former)
        temporary.replace(path)
    finally:
        if former.exists() and not path.exists():
            former.replace(path)
        _remove(temporary)
        _remove(former)


def _machine() -> str:
    """Return eight letters for the machine, or the container on it, within which a process has its number."""
    namespace = Path("/proc/self/ns/pid")  # of Linux
    inside = os.readlink(namespace) if namespace.exists() else ""
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:8]


def remove_stale_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove from a folder what killed processes left of their attempts to write `name`, or anything.

    What such a process had moved away, to make room for what it did not come to put there, is moved back.
    """
    for left in folder.glob(".flowerlib-*"):
        found = TEMPORARY.fullmatch(left.name)
        if found and name in (None, found[3]) and _is_lost(left, found[1], int(found[2]), own=name is not None):
            if found[4] and not (folder / found[3]).exists():
                left.replace(folder / found[3])
            _remove(left)


def _is_lost(left: Path, machine: str, process: int, own: bool) -> bool:
    """Whether nobody is at work on it any more; `own` is lost what bears this process' number: of a killed one."""
    if machine != _machine():  # such as of a container, or of another machine with the same home
        return time.time() - left.stat().st_mtime > STALE_SECONDS
    return own if process == os.getpid() else not _is_running(process)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def set_aside(path: Path) -> Path:
    """Rename what cannot be used, so that it is neither read again nor lost; return where it is now, hidden."""
    free = (path.with_name(f".aside-{number}.{path.name}") for number in count(1))
    return path.replace(next(aside for aside in free if not aside.exists()))


def write_checksum(path: Path, content: Path | None = None) -> None:
    """Write the checksum of a file beside it, `<path>.sha256`; of `content`, where that is to become the file."""
    with atomic_write(_checksum(path)) as temporary:
        temporary.write_text(_digest(content or path), encoding="utf-8")


def is_intact(path: Path) -> bool:
    """Return whether a file is there, and as it was when it was sealed."""
    sealed = path.exists() and _checksum(path).exists()
    return sealed and _checksum(path).read_bytes() == _digest(path).encode()


def set_aside_if_damaged(path: Path) -> None:
    """Set a file that is not intact aside, and say so; nothing where there is none."""
    if path.exists() and not is_intact(path):
        print(f"`{path}` is damaged, or has no checksum: set aside as `{set_aside(path).name}`, and made again.")


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Have a file that is made once and kept, intact; of several processes that ask at once, one makes it.

    `make` writes and seals it.
    """

    def tell(process: str) -> None:
        print(f"Process {process} makes `{path}`; waiting for it.")

    if is_intact(path):
        return
    with exclusive_lock(path.with_name(f".{path.name}.lock"), tell):
        if not is_intact(path):  # another may have made it meanwhile
            set_aside_if_damaged(path)
            make()


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive_lock(path: Path, instead: Callable[[str], None]) -> Iterator[None]:
    """Hold a file for this process alone, until the end or until the process is killed.

    Where another process holds it, `instead` is called with that one's number, and may raise; if it returns, wait.

    Raises:
        FlowersError: the file cannot be made, or written.
    """
    with ExitStack() as opened:
        while True:
            file = opened.enter_context(_open_lock(path))
            if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                file.seek(0)
                instead(file.read().strip() or "unknown")
                _lock(file, fcntl.LOCK_EX)
            if _is_same(file, path):
                break  # else who held it has removed it, and another may have made a new one
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_lock(path: Path) -> IO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise FlowersError(
            f"`{path.parent}` cannot be written ({error.strerror}: {path.name}); name another folder, for the "
            "cache in XDG_CACHE_HOME"
        ) from None


def _is_same(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO, how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True
