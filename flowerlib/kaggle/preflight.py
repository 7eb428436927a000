"""Find out on a laptop whether the long steps of notebooks suit Kaggle's accelerator, before hours are spent there."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from flowerlib.config import FlowersError, sample_dir
from flowerlib.kaggle import build, check, client
from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.chips import CHIPS, GIB, Chips
from flowerlib.kaggle.kernels import ROOT
from flowerlib.kaggle.run import show_plan
from flowerlib.parallel import num_cores

PROCESS_MEMORY = 5e9  # bytes that tracing the largest notebook takes


def preflight(
    notebooks: Iterable[str] = (),
    *,
    accelerator: str | None = None,
    online: bool | None = None,
    compiles: bool = False,
    root: Path = ROOT,
) -> list[str]:
    """Build and check kernels, trace what they compute on an accelerator, print what each step needs of a chip.

    Nothing is computed, sent or downloaded: networks have no weights, and the data are `FLOWERS_DATA` or the built-in
    sample.

    Args:
        notebooks: their names; all unless given.
        accelerator: as in `build.build`.
        online: as in `build.build`.
        compiles: whether the TPU's own compiler, libtpu, compiles each step too: its memory to the byte, in an hour.
        root: the folder of the repository.

    Returns:
        The problems that were found, one line each.

    Raises:
        FlowersError: an invalid notebook or metadata, an accelerator whose chips are not known; or it shall compile
            and is no TPU, or libtpu is not installed.
    """
    user = client.logged_in_user() or "you"
    built = build.make_all(notebooks, user=user, accelerator=accelerator, online=online, root=root)
    check.require_built(built)
    accelerated = [each for each in built if each.kernel.accelerated]
    for each in accelerated:
        _require_compiler(_chips(each), compiles)
    found = _trace_all(accelerated, root, compiles)
    console = Console()
    show_plan(built, console)
    if accelerated:
        console.print(_table(accelerated, found))
    return [problem for each in accelerated for problem in _problems(each, found[each.kernel.notebook])]


def _table(kernels: list[BuiltKernel], found: dict[str, dict]) -> Table:
    """Return a table of steps: what each needs of a chip, in GiB, and how many images would fit."""
    title = "Memory of a chip in GiB"
    table = Table(
        "notebook", "step", "images", "weights", "optimizer", "activations", "all", "fit", title=title, box=None
    )
    for each in kernels:
        for step in found[each.kernel.notebook]["steps"]:
            table.add_row(each.kernel.notebook, step["name"], *_row(step, _chips(each)))
    return table


def _problems(kernel: BuiltKernel, found: dict) -> list[str]:
    """Return what is wrong with a notebook, one line each."""
    name, chips = kernel.kernel.notebook, _chips(kernel)
    problems = [f"{name}, {step['name']}: {each}" for step in found["steps"] for each in problems_of(step, chips)]
    return problems + [f"{name}: {error}" for error in _errors(found)]


def _chips(built: BuiltKernel) -> Chips:
    name = built.metadata["machine_shape"]
    if name not in CHIPS:
        raise FlowersError(f"the chips of {name} are not known; name one of {', '.join(CHIPS)} with --accelerator")
    return CHIPS[name]


def _require_compiler(chips: Chips, compiles: bool) -> None:
    if compiles and not chips.topology:
        raise FlowersError(f"only a TPU's compiler needs no device; leave out --compile for {chips.name}")
    if compiles and not importlib.util.find_spec("libtpu"):
        raise FlowersError("--compile needs libtpu, the TPU's compiler: pip install 'jax[tpu]'")


def _trace_all(kernels: list[BuiltKernel], root: Path, compiles: bool) -> dict[str, dict]:
    """Trace notebooks, as many side by side as cores and memory allow; return what was found of each."""
    data = os.environ.get("FLOWERS_DATA") or str(_sample())
    side_by_side = 1 if compiles else max(1, min(num_cores(), int(psutil.virtual_memory().available / PROCESS_MEMORY)))
    with ThreadPoolExecutor(side_by_side) as pool:
        jobs = {}
        for each in kernels:
            notebook = root / "notebooks" / f"{each.kernel.notebook}.ipynb"
            jobs[pool.submit(trace, notebook, each.metadata["machine_shape"], data, compiles)] = each.kernel.notebook
        done = tqdm(as_completed(jobs), "tracing", len(jobs), unit="notebook")
        return {jobs[job]: job.result() for job in done}


def _sample() -> Path:
    """Return the built-in sample, drawn now if it was not; in a process of its own, as it loads TensorFlow."""
    subprocess.run([sys.executable, "-m", "flowerlib", "sample", str(sample_dir())], check=True)
    return sample_dir()


def trace(notebook: Path, accelerator: str, data: str, compiles: bool = False) -> dict:
    """Trace one notebook in a process of its own.

    Args:
        notebook: a file.
        accelerator: a key of `CHIPS`.
        data: the dataset's folder or address.
        compiles: as in `preflight`.

    Returns:
        `steps`, as `tracing.Step` describes them, and `error`, None unless the notebook stopped before its first.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder, "trace.json")
        command = [sys.executable, "-m", "flowerlib.kaggle.tracing", str(notebook.resolve()), accelerator, str(out)]
        command += ["compile"] if compiles else []
        done = subprocess.run(
            command,
            env=environment(accelerator, data),
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            return {"steps": [], "error": f"tracing ended with {done.returncode}: {done.stderr.strip()[-500:]}"}
        return json.loads(out.read_text("utf-8"))


def environment(accelerator: str, data: str) -> dict[str, str]:
    """Return the environment in which a notebook is traced: JAX on this CPU, in place of the accelerator's chips."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FLOWERS_")} | {
        "FLOWERS_DATA": data,
        "FLOWERS_PROFILE": "full",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
        "MPLBACKEND": "agg",
        "TPU_SKIP_MDS_QUERY": "1",  # libtpu shall not ask for the machine that it is on: it only compiles
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={CHIPS[accelerator].count}",
    }


def _errors(found: dict) -> list[str]:
    """Return why a notebook came to no long step."""
    if found["error"]:
        return [found["error"]]
    return [] if found["steps"] else ["neither trains nor extracts features, and needs no accelerator"]


def needed(step: dict) -> int:
    """Return the bytes that a step needs of a chip, an estimate unless it was compiled."""
    if step["compiled"]:
        return step["compiled"] + step["inputs"] // 2
    return sum(step[part] for part in ("weights", "optimizer", "gradients", "inputs", "activations"))


def largest_batch(step: dict, chips: Chips) -> int:
    """Return the images a chip whose step would still fit its memory, an estimate."""
    share = step["batch"] // chips.count
    growing = step["inputs"] + step["activations"]
    return int((chips.memory - needed(step) + growing) * share // growing)


def _row(step: dict, chips: Chips) -> list[str]:
    if not step["activations"]:
        return []
    parts = (step["weights"], step["optimizer"] + step["gradients"], step["activations"], needed(step))
    return [
        f"{step['batch'] // chips.count}",
        *(f"{part / GIB:.2f}" for part in parts),
        f"{largest_batch(step, chips)}",
    ]


def problems_of(step: dict, chips: Chips) -> list[str]:
    """Return what keeps a step from running well on chips, one line each."""
    if step["activations"] and needed(step) > chips.memory:
        needs = f"needs about {needed(step) / GIB:.1f} GiB of a chip's {chips.memory / GIB:.1f}"
        return [
            *step["problems"],
            f"{needs}; make the batch smaller, {largest_batch(step, chips)} images a chip would fit",
        ]
    return step["problems"]
