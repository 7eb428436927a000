"""The pretrained weights as a dataset."""

import pytest

from flowerlib.kaggle import dataset as weights_dataset
from flowerlib.networks import backbones


@pytest.fixture(autouse=True)
def packaged(here, monkeypatch):
    """Leave those networks whose weights pip packages carry."""
    rows = backbones.BACKBONES.items()
    monkeypatch.setattr(backbones, "BACKBONES", {name: row for name, row in rows if row.weights.package})


def test_the_weights_become_a_dataset_and_then_a_new_version(server, tmp_path):
    server.dataset_polls = 3
    (tmp_path / "w/more").mkdir(parents=True)
    (tmp_path / "w/[private].txt").write_text("not a weight, not to be sent")
    for version in (1, 2):
        assert weights_dataset.upload(tmp_path / "w", poll=0.05) == "someone/flowerlib-weights"
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


def test_an_upload_that_is_lost_is_an_error(server, tmp_path):
    server.fail_next("uploads", ("http", 403, "no"))
    with pytest.raises(RuntimeError, match=r"Upload unsuccessful: efficientnet-lite0-57934424\.pth"):
        weights_dataset.upload(tmp_path / "w", poll=0.05)
    assert server.datasets == {}
