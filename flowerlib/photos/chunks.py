"""Prepare photographs in parallel, in chunks on disk, so that an interrupted call resumes after its last whole chunk.

Each chunk is two files with checksums: `.tfrec` has one JPEG per photograph (empty where it cannot be read), `.npz`
what near-duplicates are found by.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from flowerlib import data
from flowerlib.accelerator import tf
from flowerlib.config import atomic_write, set_aside_if_damaged, write_checksum
from flowerlib.parallel import parallel_map
from flowerlib.photos.listing import Photograph
from flowerlib.photos.photo import Fit
from flowerlib.photos.preparation import Prepared, prepare
from flowerlib.tfrecords.records import Records

CHUNK_SIZE = 256  # photographs: seconds of work on two cores, which is all that an interruption costs


def prepare_all(
    photographs: Sequence[Photograph], folder: Path, image_size: int, fit: Fit, progress: bool = True
) -> list[Path]:
    """Prepare the photographs whose chunks are missing in `folder`; return the paths of all chunks, without suffix."""
    starts = range(0, len(photographs), CHUNK_SIZE)
    chunks = {folder / f"{number:05d}": photographs[at : at + CHUNK_SIZE] for number, at in enumerate(starts)}
    for file in (file for chunk in chunks for file in _chunk_files(chunk)):
        set_aside_if_damaged(file)
    missing = {chunk: part for chunk, part in chunks.items() if not all(map(Path.exists, _chunk_files(chunk)))}
    paths = [photograph.path for part in missing.values() for photograph in part]
    total = len(photographs)
    bar = tqdm(desc="preparing", total=total, initial=total - len(paths), unit="img", disable=not progress)
    with bar, parallel_map(partial(prepare, image_size=image_size, fit=fit), paths) as results:
        for chunk, part in missing.items():
            prepared = []
            for _ in part:
                prepared.append(next(results))
                bar.update()
            _save_chunk(chunk, prepared)
    return list(chunks)


def _chunk_files(chunk: Path) -> tuple[Path, Path]:
    return chunk.with_suffix(".tfrec"), chunk.with_suffix(".npz")


def _save_chunk(chunk: Path, prepared: Sequence[Prepared]) -> None:
    jpegs, arrays = _chunk_files(chunk)
    with atomic_write(jpegs) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for item in prepared:
                writer.write(item.jpeg)
        write_checksum(jpegs, temporary)
    with atomic_write(arrays) as temporary:
        np.savez(
            temporary,
            digests=np.stack([np.frombuffer(item.digest, np.uint8) for item in prepared]),
            contents=np.stack([np.frombuffer(item.content, np.uint8) for item in prepared]),
            thumbnails=np.stack([item.thumbnail for item in prepared]),
            errors=np.array([item.error for item in prepared]),
        )
        write_checksum(arrays, temporary)


def load_table(photographs: Sequence[Photograph], chunks: Sequence[Path]) -> pd.DataFrame:
    """Return one row per photograph: `id`, `label`, `error`, and what `splitting` needs.

    That is `content` (the digest of the file), `digest` (of its pixels), `hash` and `mirrored`.
    """
    table = pd.concat([_load_chunk(chunk) for chunk in chunks], ignore_index=True)
    table.insert(0, "id", [photograph.id for photograph in photographs])
    table.insert(1, "label", [photograph.label for photograph in photographs])
    return table


def _load_chunk(chunk: Path) -> pd.DataFrame:
    with np.load(chunk.with_suffix(".npz")) as arrays:
        hashes, mirrored = data.perceptual_hashes(arrays["thumbnails"].astype(np.float32))
        digests, contents = ([row.tobytes() for row in arrays[name]] for name in ("digests", "contents"))
        columns = {"error": arrays["errors"], "digest": digests, "content": contents}
        return pd.DataFrame({**columns, "hash": hashes, "mirrored": mirrored})


def open_jpegs(chunks: Sequence[Path]) -> Records:
    """Return the JPEGs of all chunks, to be fetched by the position of the photograph."""
    return Records([str(chunk.with_suffix(".tfrec")) for chunk in chunks])
