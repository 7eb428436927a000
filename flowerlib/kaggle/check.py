"""Lint kernels before they are pushed: Kaggle silently ignores what it does not know."""

import difflib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from slugify import slugify

from flowerlib.config import FlowersError
from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.kernels import (
    ACCELERATORS,
    METADATA,
    PLACEHOLDER_OWNER,
    REFUSED_ACCELERATORS,
    RETIRED_ACCELERATORS,
    read,
)

METADATA_TYPES = {
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
OPTIONAL_TYPES = {"id_no": int, "docker_image_pinning_type": str}  # that the package takes too
PINNING_TYPES = ("original", "latest")  # of the image
SLUG = r"[A-Za-z0-9][A-Za-z0-9_-]*"
# How sources are named: the pattern, and its description.
SOURCE_PATTERNS = {
    "dataset_sources": (rf"{SLUG}/{SLUG}(/\d+)?", "owner/slug"),
    "competition_sources": (SLUG, "a bare slug"),
    "kernel_sources": (rf"{SLUG}/{SLUG}(/\d+)?", "owner/slug"),
    "model_sources": (rf"{SLUG}(/{SLUG}){{3}}/\d+", "owner/model/framework/variation/version"),
}
MAX_NOTEBOOK_BYTES = 1_000_000
SECRETS = {
    "a Kaggle token": r"KGAT_\w{20,}|\"key\"\s*:\s*\"[0-9a-f]{32}\"|KAGGLE_(?:KEY|API_TOKEN)\s*=\s*[\"']?\w{16,}",
    "a token": r"\b(?:hf_|ghp_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password": r"(?i)\bpass(?:word|wd)\s*=\s*[\"'][^\"']+[\"']",
}
LOCAL_PATH = r"(?<![\w.])(?:/home|/Users)/\w[\w.-]*/|/root/|\b[A-Za-z]:\\\\?Users\\\\?\w+"


def lint(folder: Path) -> list[str]:
    """Return the problems of the kernel in a folder, one line each: `<file>: <problem>; <remedy>`."""
    path = folder / METADATA
    try:
        metadata = read(path)
    except FlowersError as error:
        return [str(error)]
    problems = [
        f"{path}: {problem}"
        for problem in (*_check_keys(metadata), *_check_shared_values(metadata), *_check_own_values(metadata))
    ]
    code_file = metadata.get("code_file")
    if isinstance(code_file, str) and code_file:
        notebook = folder / code_file
        problems += [f"{notebook}: {problem}" for problem in _check_notebook(notebook)]
    return problems


def require(folders: Iterable[Path]) -> None:
    """Check several kernels.

    Raises:
        FlowersError: there is a problem; the message has one line for each.
    """
    if problems := [problem for folder in folders for problem in lint(folder)]:
        raise FlowersError("\n".join(problems))


def require_built(kernels: Iterable[BuiltKernel]) -> None:
    """Check kernels that are not written yet, but for what `build` itself makes: the shared metadata, the notebooks.

    Raises:
        FlowersError: there is a problem; the message has one line for each.
    """
    problems = []
    for built in kernels:
        shared = (*_check_keys(built.metadata), *_check_shared_values(built.metadata))
        problems += [f"{METADATA}: {problem}" for problem in shared]
        sources = [cell.source for cell in built.notebook.cells]
        content = nbformat.writes(built.notebook).encode()
        problems += [f"{built.metadata['code_file']}: {problem}" for problem in _check_text(content, sources)]
    if problems:
        raise FlowersError("\n".join(dict.fromkeys(problems)))


def _check_keys(metadata: dict) -> Iterator[str]:
    known = METADATA_TYPES | OPTIONAL_TYPES
    for key, value in metadata.items():
        if key == "docker_image":
            yield "`docker_image` can put a TPU kernel on the plain CPU image without a word; remove it"
        elif key not in known:
            nearest = difflib.get_close_matches(key, known, 1, 0.0)[0]
            yield f"unknown key `{key}`, which Kaggle ignores; did you mean `{nearest}`?"
        elif not isinstance(value, known[key]) or (known[key] is int and isinstance(value, bool)):
            yield f"`{key}` (={value!r}) must be a {known[key].__name__}, not a {type(value).__name__}"
    for key in METADATA_TYPES:
        if key not in metadata:
            yield f"`{key}` is missing; write it, the defaults differ from what the documentation says"


def _well_typed(metadata: dict) -> dict:
    """Return the entries whose values have the right type."""
    return {
        key: value
        for key, value in metadata.items()
        if isinstance(value, (METADATA_TYPES | OPTIONAL_TYPES).get(key, ()))
    }


def _check_own_values(metadata: dict) -> Iterator[str]:
    """Check the values that differ between kernels."""
    values = _well_typed(metadata)
    if {"id", "title"} <= values.keys():
        yield from _check_names(values["id"], values["title"])
    if {"machine_shape", "enable_tpu", "enable_gpu"} <= values.keys():
        yield from _check_machine(values["machine_shape"], values["enable_tpu"], values["enable_gpu"])


def _check_shared_values(metadata: dict) -> Iterator[str]:
    """Check the values that all kernels share."""
    values = _well_typed(metadata)
    for key, allowed in (("language", "python"), ("kernel_type", "notebook")):
        if values.get(key, allowed) != allowed:
            yield f"`{key}` (={values[key]}) must be {allowed}"
    if (pinned := values.get("docker_image_pinning_type", "latest")) not in PINNING_TYPES:
        yield f"`docker_image_pinning_type` (={pinned}) must be one of {', '.join(PINNING_TYPES)}, or left out"
    for key, (pattern, description) in SOURCE_PATTERNS.items():
        for source in values.get(key, []):
            if not isinstance(source, str) or not re.fullmatch(pattern, source):
                yield f"`{key}`: {source!r} must be {description}"


def _check_names(ref: str, title: str) -> Iterator[str]:
    if not re.fullmatch(rf"{SLUG}/{SLUG}", ref):
        yield f"`id` (={ref}) must be owner/slug"
        return
    owner, slug = ref.split("/")
    if owner == PLACEHOLDER_OWNER:
        yield f"`id` (={ref}) has no owner yet; run `flowerlib kaggle build --user YOUR-NAME`"
    if not 5 <= len(title) <= 50:
        yield f"`title` (={title}) has {len(title)} characters, but must have 5 to 50"
    if len(slug) < 5:
        yield f"`id` (={ref}): the slug must have at least 5 characters"
    if slugify(title) != slug:
        yield f"`id` (={ref}): Kaggle makes the slug {slugify(title)!r} of the title {title!r}; the two must agree"


def _check_machine(machine: str, tpu: bool, gpu: bool) -> Iterator[str]:
    if machine in RETIRED_ACCELERATORS:
        yield f"`machine_shape` (={machine}) is retired; use {RETIRED_ACCELERATORS[machine]}"
    elif machine in REFUSED_ACCELERATORS:
        yield f"`machine_shape` (={machine}) {REFUSED_ACCELERATORS[machine]}"
    elif machine and machine not in ACCELERATORS:
        nearest = difflib.get_close_matches(machine, ACCELERATORS, 1, 0.0)[0]
        yield f"`machine_shape` (={machine}) is unknown; did you mean {nearest}?"
    if (tpu, gpu) != (machine.startswith("Tpu"), machine.startswith("Nvidia")):
        yield f"`machine_shape` (={machine}) and `enable_tpu` (={tpu}), `enable_gpu` (={gpu}) contradict each other"


def _check_notebook(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "does not exist; run `flowerlib kaggle build`"
        return
    content = path.read_bytes()
    if content.startswith(BOM_UTF8):
        yield "begins with a byte-order mark, at which the kaggle package stops; save it as UTF-8 without one"
        return
    try:
        notebook = json.loads(content.decode("utf-8"))
        cells, metadata = notebook["cells"], dict(notebook["metadata"])
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError):
        yield "is not a notebook; run `flowerlib kaggle build`"
        return
    kernelspec = metadata.get("kernelspec")
    if not isinstance(kernelspec, dict) or not kernelspec.get("name"):
        yield "has no kernelspec, without which Kaggle ends it at once"
    if "kaggle" in metadata:
        yield "has metadata of an earlier machine (`metadata.kaggle`), which overrides the settings; remove it"
    if any(cell.get("outputs") for cell in cells):
        yield "has outputs; clear them"
    yield from _check_text(content, sources)


def _check_text(content: bytes, sources: list[str]) -> Iterator[str]:
    """Check the length of a notebook and the text of its cells."""
    if len(content) > MAX_NOTEBOOK_BYTES:
        yield f"has {len(content):,} bytes, but must have at most {MAX_NOTEBOOK_BYTES:,}"
    for number, source in enumerate(sources):
        yield from (f"cell {number}: {problem}" for problem in _find_leaks(source))


def _find_leaks(source: str) -> Iterator[str]:
    """Find strings that look like secrets, which are not shown whole, and paths of the author's machine."""
    for name, pattern in SECRETS.items():
        for match in re.finditer(pattern, source):
            yield f"line {_line(source, match)} looks like {name} ({match[0][:8]}...); remove it, and revoke it"
    for match in re.finditer(LOCAL_PATH, source):
        yield f"line {_line(source, match)} has the local path {match[0]!r}, which does not exist on Kaggle"


def _line(source: str, match: re.Match) -> int:
    return source.count("\n", 0, match.start()) + 1
