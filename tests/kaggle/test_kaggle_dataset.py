"""The pretrained weights as a dataset."""

import os
import subprocess
import sys


def weights_dataset(server, folder, tmp_path):
    """`flowerlib kaggle weights-dataset` with the networks whose weights pip packages carry."""
    code = (
        "from pathlib import Path; from flowerlib.networks import backbones; from flowerlib.kaggle import dataset\n"
        "rows = backbones.BACKBONES.items()\n"
        "backbones.BACKBONES = {name: row for name, row in rows if row.weights.package}\n"
        "print('uploaded', dataset.upload(Path('w'), poll=0.05))"
    )
    options = {"cwd": folder, "env": os.environ | server.environment(tmp_path), "capture_output": True}
    return subprocess.run([sys.executable, "-c", code], text=True, **options)


def test_the_weights_become_a_dataset_and_then_a_new_version(server, folder, tmp_path):
    server.dataset_polls = 3
    (folder / "w/more").mkdir(parents=True)
    (folder / "w/[private].txt").write_text("not a weight, not to be sent")
    for version in (1, 2):
        done = weights_dataset(server, folder, tmp_path)
        assert "uploaded someone/flowerlib-weights" in done.stdout, done.stderr
        dataset = server.datasets["someone/flowerlib-weights"]
        assert dataset.versions == version
        assert dataset.waits == 0
        assert {name: len(content) for name, content in dataset.files.items()} == {
            "efficientnet-lite0-57934424.pth": 18_826_032,
            "efficientnet-lite1-77cc7160.pth": 21_946_926,
            "efficientnet-lite2-9656183e.pth": 24_666_229,
        }
    [create] = [body for method, body in server.requests if method == "CreateDataset"]
    assert create["licenseName"] == "apache-2.0"


def test_an_upload_that_is_lost_is_an_error(server, folder, tmp_path):
    server.fail_next("uploads", ("http", 403, "no"))
    done = weights_dataset(server, folder, tmp_path)
    assert "Upload unsuccessful: efficientnet-lite0-57934424.pth" in done.stderr
    assert server.datasets == {}
