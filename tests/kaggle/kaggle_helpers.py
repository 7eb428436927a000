"""What the tests of `flowerlib kaggle` share: names of kernels, and what the server and the commands say."""

import ast
import json

import nbformat
import numpy as np

from flowerlib.kaggle import kernels
from flowerlib.predictions import Predictions

POLL = ("--poll", "0.05")
REFS = {name: f"someone/{kernel.slug}" for name, kernel in kernels.SERIES.items()}
MEMBERS = kernels.SERIES["20_ensemble"].sources
NOTEBOOKS = ("20_ensemble", "01_eda")  # and so the seven members of the ensemble
ALL_NOTEBOOKS = sorted([*NOTEBOOKS, *MEMBERS])


def pushed(server):
    """The notebooks that were sent and accepted, in order of arrival; those twice that were sent twice."""
    names = {ref: name for name, ref in REFS.items()}
    saved = [session for sessions in server.kernels.values() for session in sessions]
    return [names[session.slug] for session in sorted(saved, key=lambda session: session.began)]


def first_cell(session):
    """The source of the first code cell of what was sent."""
    return next(cell["source"] for cell in json.loads(session.body["text"])["cells"] if cell["cell_type"] == "code")


def assert_fails(done, *words):
    """Assert exit code 1 and one line of error, without a traceback, that has these words."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def random_run(name, seed):
    """Return random predictions over three classes, of the same images for every seed, and the record of a run."""
    rng = np.random.default_rng(seed)
    splits = [
        Predictions(rng.dirichlet(np.ones(3), 6).astype("float32"), labels, np.array([f"{kind}{i}" for i in range(6)]))
        for kind, labels in (("v", np.arange(6) % 3), ("t", np.full(6, -1)))
    ]
    record = {
        "name": name,
        "smoke_test": False,
        "backbone": "DenseNet201",
        "history": {"seconds": [60.0, 2.0, 2.0]},
        "val_macro_f1": 0.5,
        "val_accuracy": 0.5,
        "val_loss": 1.0,
        "seconds_per_epoch": 2.0,
        "epochs": 3,
        "trainable_parameters": 1000,
        "weights": "pretrained",
        "parameters": 1000,
        "layers": 10,
        "config": {"image_size": 512},
        "device": {"num_replicas": 8, "kind": "tpu"},
        "data": {"train": 12753, "test": 6, "num_classes": 3, "fingerprint": "0123456789ab"},
    }
    return splits, record


def arrivals(server, method):
    """Return when the calls of a method arrived, in seconds of the monotonic clock."""
    return np.array(
        [when for when, (asked, _) in zip(server.arrivals, server.requests, strict=True) if asked == method]
    )


def change_library(folder):
    """Change a file of the library that every kernel embeds."""
    config = folder / "flowerlib/config.py"
    config.write_text(config.read_text() + "# another line\n")


def read_kernel(root, name):
    """Return the metadata and the notebook of a built kernel, which must be valid."""
    folder = root / "build/kernels" / name
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    notebook = nbformat.read(folder / metadata["code_file"], as_version=4)
    nbformat.validate(notebook)
    return metadata, notebook


def first_code(root, name):
    """Return the source of a built kernel's first code cell."""
    return next(cell.source for cell in read_kernel(root, name)[1].cells if cell.cell_type == "code")


def files_in(source):
    """Return the files embedded in a first cell, name -> text, by Python's own reader of literals."""
    tree = ast.parse(source)
    [value] = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_files"]
    return ast.literal_eval(value)


def read_all_files(folder):
    """Return the bytes of every file below a folder by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
