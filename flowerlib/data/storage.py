"""Files wherever TensorFlow reads them, such as `gs://`: listed, read, hashed, copied; errors say what to do.

Folders of this machine are places like any other, except that they are read where they are.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path, PurePosixPath

from flowerlib.accelerator import tf
from flowerlib.config import FlowersError, atomic_write, make_once, write_checksum

HASH_CHUNK_BYTES = 1 << 20  # bytes at a time
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN_HINT = f"name an account's key file in {KEY_FILE}, or log in with `gcloud auth application-default login`"
# What TensorFlow's HTTP client (libcurl) calls a failure -> what to do. Source: curl/curl.h.
CURL_HINTS = {
    6: "its address cannot be looked up; is there a network?",
    7: "there is no connection; check the network and HTTPS_PROXY",
    60: "its certificate is not trusted; name a file of certificates in CURL_CA_BUNDLE",
    77: "there is no file of certificates; name one in CURL_CA_BUNDLE",
}


@contextmanager
def readable_errors(place: str) -> Iterator[None]:
    """Turn what TensorFlow raises about a place into one line that says what to do.

    Raises:
        FlowersError: names the place, what is wrong with it and the remedy.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise FlowersError(f"`{place}` cannot be read: {_reason(error)}") from None


def _reason(error: tf.errors.OpError) -> str:
    """Why a place cannot be read, and the remedy where one is known."""
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", " ".join(error.message.split())).strip()
    status, curl = (re.search(rf"{kind} code (\d+)", message) for kind in ("response", "libcurl"))
    if status and status[1] in ("401", "403"):
        return f"{_refusal()} (HTTP {status[1]})"
    if status and status[1] == "429":
        return "it is asked too often; try again in some minutes (HTTP 429)"
    if isinstance(error, tf.errors.NotFoundError):
        return "it is not there; check the address"
    if curl and int(curl[1]) in CURL_HINTS:
        return CURL_HINTS[int(curl[1])]
    if "contents are inconsistent" in message:
        return "it was replaced meanwhile; run the same command again"
    if isinstance(error, tf.errors.AbortedError | tf.errors.UnavailableError):
        return f"the connection fails again and again; try again later ({message})"
    return message


def _refusal() -> str:
    key = os.environ.get(KEY_FILE)
    if key and not os.path.isfile(key):
        return f"`{KEY_FILE}` (={key}) is no file; correct it"
    if key:
        return f"the account of `{KEY_FILE}` (={key}) may not read it, or its key is not valid; give it the right to"
    return f"it is not public; {LOGIN_HINT}"


def names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; none if it is not there."""
    if "://" not in folder:
        return sorted(tf.io.gfile.listdir(folder)) if tf.io.gfile.isdir(folder) else []
    with readable_errors(folder):
        try:  # by a pattern: `isdir` hides errors, and asks about the bucket, of which the public may know nothing
            paths = tf.io.gfile.glob(f"{glob.escape(folder.rstrip('/'))}/*")
        except tf.errors.NotFoundError:
            return []
    return sorted({PurePosixPath(path).name for path in paths})


def read(path: str) -> bytes | None:
    """Return what is in a file, None if there is none."""
    with readable_errors(path):
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()


def sha256(path: str) -> str:
    """Return the SHA-256 of a file, which is not read again while its length and the time of its change stay."""
    with readable_errors(path):
        if "://" in path:
            about = tf.io.gfile.stat(path)
            return _sha256_of(path, about.length, about.mtime_nsec) if about.mtime_nsec else _sha256(path)
        local = os.stat(path)  # TensorFlow tells whole seconds only
        return _sha256_of(path, local.st_size, local.st_mtime_ns)


@cache
def _sha256_of(path: str, length: int, changed: int) -> str:
    return _sha256(path)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def local_copy(path: str, folder: Path, digest: str) -> Path:
    """Return a file of this machine as it is; one from elsewhere is fetched once, and kept in the folder.

    Args:
        path: the file, whose name is that of its copy too.
        folder: of the cache.
        digest: the SHA-256 that it must have.

    Raises:
        FlowersError: it cannot be fetched, or is not what it was when the dataset was found.
    """
    if os.path.exists(path):
        return Path(path)
    copy = folder / PurePosixPath(path).name
    make_once(copy, partial(_fetch, path, copy, digest))
    return copy


def _fetch(path: str, copy: Path, digest: str) -> None:
    with atomic_write(copy) as temporary:
        with readable_errors(path):
            tf.io.gfile.copy(path, str(temporary))
        if _sha256(str(temporary)) != digest:
            raise FlowersError(f"`{path}` was replaced while it was read; run the same command again")
        write_checksum(copy, temporary)
