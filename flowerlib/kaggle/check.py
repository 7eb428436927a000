"""Find what is wrong with a kernel before it is sent; Kaggle ignores what it does not know, without a word."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from slugify import slugify

from flowerlib.config import FlowersError
from flowerlib.kaggle.build import Built
from flowerlib.kaggle.kernels import ACCELERATORS, METADATA, NOBODY, RETIRED, read

TYPES = {
    "id": str,
    "title": str,
    "code_file": str,
    "language": str,
    "kernel_type": str,
    "is_private": bool,
    "enable_gpu": bool,
    "enable_tpu": bool,
    "enable_internet": bool,
    "machine_shape": str,
    "keywords": list,
    "dataset_sources": list,
    "competition_sources": list,
    "kernel_sources": list,
    "model_sources": list,
}
# How a source is named: what it looks like, and the words for it.
SLUG = r"[A-Za-z0-9][A-Za-z0-9_-]*"
SOURCES = {
    "dataset_sources": (rf"{SLUG}/{SLUG}(/\d+)?", "owner/slug"),
    "competition_sources": (SLUG, "a bare slug"),
    "kernel_sources": (rf"{SLUG}/{SLUG}(/\d+)?", "owner/slug"),
    "model_sources": (rf"{SLUG}(/{SLUG}){{3}}/\d+", "owner/model/framework/variation/version"),
}
LARGEST = 1_000_000  # bytes of a notebook
SECRETS = {
    "a Kaggle token": r"KGAT_\w{20,}|\"key\"\s*:\s*\"[0-9a-f]{32}\"|KAGGLE_(?:KEY|API_TOKEN)\s*=\s*[\"']?\w{16,}",
    "a token": r"\b(?:hf_|ghp_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password": r"(?i)\bpass(?:word|wd)\s*=\s*[\"'][^\"']+[\"']",
}
LOCAL = r"(?<![\w.])(?:/home|/Users)/\w[\w.-]*/|/root/|\b[A-Za-z]:\\\\?Users\\\\?\w+"


def lint(folder: Path) -> list[str]:
    """Return what is wrong with the kernel in a folder, one line each: `<file>: <what>; <remedy>`."""
    path = folder / METADATA
    try:
        metadata = read(path)
    except FlowersError as error:
        return [str(error)]
    problems = [f"{path}: {problem}" for problem in (*_keys(metadata), *_values(metadata), *_own(metadata))]
    code_file = metadata.get("code_file")
    if isinstance(code_file, str) and code_file:
        notebook = folder / code_file
        problems += [f"{notebook}: {problem}" for problem in _notebook(notebook)]
    return problems


def require(folders: Iterable[Path]) -> None:
    """Check several kernels.

    Raises:
        FlowersError: something is wrong; the message has a line for each thing.
    """
    if problems := [problem for folder in folders for problem in lint(folder)]:
        raise FlowersError("\n".join(problems))


def require_built(built: Iterable[Built]) -> None:
    """Check kernels that are made but not written, for what was taken over: the shared metadata, the notebooks' text.

    Raises:
        FlowersError: something is wrong; the message has a line for each thing.
    """
    problems = []
    for each in built:
        problems += [f"{METADATA}: {problem}" for problem in (*_keys(each.metadata), *_values(each.metadata))]
        sources = [cell.source for cell in each.notebook.cells]
        content = nbformat.writes(each.notebook).encode()
        problems += [f"{each.metadata['code_file']}: {problem}" for problem in _text(content, sources)]
    if problems:
        raise FlowersError("\n".join(dict.fromkeys(problems)))


def _keys(metadata: dict) -> Iterator[str]:
    for key, value in metadata.items():
        if key == "docker_image":
            yield "`docker_image` can put a TPU kernel on the plain CPU image without a word; remove it"
        elif key not in TYPES:
            nearest = difflib.get_close_matches(key, TYPES, 1, 0.0)[0]
            yield f"unknown key `{key}`, which Kaggle ignores; did you mean `{nearest}`?"
        elif not isinstance(value, TYPES[key]):
            yield f"`{key}` (={value!r}) must be a {TYPES[key].__name__}, not a {type(value).__name__}"
    for key in TYPES:
        if key not in metadata:
            yield f"`{key}` is missing; write it, the defaults differ from what the documentation says"


def _right(metadata: dict) -> dict:
    """The values that have the right type."""
    return {key: value for key, value in metadata.items() if isinstance(value, TYPES.get(key, ()))}


def _own(metadata: dict) -> Iterator[str]:
    """What is wrong with values that each kernel has of its own."""
    right = _right(metadata)
    if {"id", "title"} <= right.keys():
        yield from _names(right["id"], right["title"])
    if {"machine_shape", "enable_tpu", "enable_gpu"} <= right.keys():
        yield from _machine(right["machine_shape"], right["enable_tpu"], right["enable_gpu"])


def _values(metadata: dict) -> Iterator[str]:
    """What is wrong with values that all kernels share."""
    right = _right(metadata)
    for key, allowed in (("language", "python"), ("kernel_type", "notebook")):
        if right.get(key, allowed) != allowed:
            yield f"`{key}` (={right[key]}) must be {allowed}"
    for key, (pattern, words) in SOURCES.items():
        for source in right.get(key, []):
            if not isinstance(source, str) or not re.fullmatch(pattern, source):
                yield f"`{key}`: {source!r} must be {words}"


def _names(ref: str, title: str) -> Iterator[str]:
    if not re.fullmatch(rf"{SLUG}/{SLUG}", ref):
        yield f"`id` (={ref}) must be owner/slug"
        return
    owner, slug = ref.split("/")
    if owner == NOBODY:
        yield f"`id` (={ref}) has no owner yet; run `flowerlib kaggle build --user YOUR-NAME`"
    if not 5 <= len(title) <= 50:
        yield f"`title` (={title}) has {len(title)} characters, but must have 5 to 50"
    if len(slug) < 5:
        yield f"`id` (={ref}): the slug must have at least 5 characters"
    if slugify(title) != slug:
        yield f"`id` (={ref}): Kaggle makes the slug {slugify(title)!r} of the title {title!r}; the two must agree"


def _machine(machine: str, tpu: bool, gpu: bool) -> Iterator[str]:
    if machine in RETIRED:
        yield f"`machine_shape` (={machine}) is retired; use {RETIRED[machine]}"
    elif machine and machine not in ACCELERATORS:
        nearest = difflib.get_close_matches(machine, ACCELERATORS, 1, 0.0)[0]
        yield f"`machine_shape` (={machine}) is unknown; did you mean {nearest}?"
    if (tpu, gpu) != (machine.startswith("Tpu"), machine.startswith("Nvidia")):
        yield f"`machine_shape` (={machine}) and `enable_tpu` (={tpu}), `enable_gpu` (={gpu}) contradict each other"


def _notebook(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "is not there; run `flowerlib kaggle build`"
        return
    content = path.read_bytes()
    try:
        notebook = json.loads(content)
        cells, metadata = notebook["cells"], dict(notebook["metadata"])
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError):
        yield "is not a notebook; run `flowerlib kaggle build`"
        return
    kernelspec = metadata.get("kernelspec")
    if not isinstance(kernelspec, dict) or not kernelspec.get("name"):
        yield "has no kernelspec, without which it ends at once on Kaggle"
    if "kaggle" in metadata:
        yield "has metadata of an earlier machine (`metadata.kaggle`), which wins over the settings; remove it"
    if any(cell.get("outputs") for cell in cells):
        yield "has outputs; clear them"
    yield from _text(content, sources)


def _text(content: bytes, sources: list[str]) -> Iterator[str]:
    """What is wrong with a notebook's length, or in its cells."""
    if len(content) > LARGEST:
        yield f"has {len(content):,} bytes, but must have at most {LARGEST:,}"
    for number, source in enumerate(sources):
        yield from (f"cell {number}: {problem}" for problem in _leftovers(source))


def _leftovers(source: str) -> Iterator[str]:
    """Strings that look like secrets (not shown whole), and paths of somebody's machine."""
    for what, pattern in SECRETS.items():
        for found in re.finditer(pattern, source):
            yield f"line {_line(source, found)} looks like {what} ({found[0][:8]}...); take it out, and renew it"
    for found in re.finditer(LOCAL, source):
        yield f"line {_line(source, found)} has the local path {found[0]!r}, which is not there on Kaggle"


def _line(source: str, found: re.Match) -> int:
    return source.count("\n", 0, found.start()) + 1
