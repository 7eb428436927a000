"""A copy of what a clone has, so that a test may change it and build in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(folder):
    """Copy the library, the notebooks and the metadata; return the folder."""
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("flowerlib", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("kernel-metadata.json", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def command(*arguments):
    """The command line that runs the copy's own flowerlib, when it is started in the copy."""
    return [sys.executable, "-m", "flowerlib", *map(str, arguments)]


def flowerlib(folder, *arguments, **environment):
    """Run a command of the copy, without the variables of the environment that are None."""
    wanted = {name: value for name, value in (os.environ | environment).items() if value is not None}
    options = {"cwd": folder, "env": wanted, "capture_output": True, "text": True}
    return subprocess.run(command(*arguments), **options)
