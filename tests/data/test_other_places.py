"""What is named in place of a dataset is told from one that is not there."""

import shutil

import pytest

from flowerlib import data
from flowerlib.config import FlowersError


@pytest.mark.parametrize("name", ["rose/1.jpg", "rose/more/2.JPEG", "3.heic"])
def test_photographs_lead_to_the_command_that_makes_a_dataset_of_them(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(
        FlowersError, match=f"`{tmp_path}` holds photographs, and no dataset; .* flowerlib folder {tmp_path} "
    ):
        data.find(path=str(tmp_path))


@pytest.mark.parametrize("name", ["photographs.zip", "labels.csv", "rose.jpg"])
def test_a_file_leads_there_too(tmp_path, name, monkeypatch):
    (tmp_path / name).touch()
    monkeypatch.setenv("FLOWERS_DATA", str(tmp_path / name))
    with pytest.raises(FlowersError, match=f"{name}` is a file, and no dataset; .* flowerlib folder"):
        data.find()


@pytest.mark.parametrize("inner", ["tfrecords-jpeg-24x24", "tfrecords-jpeg-24x24/train"])
def test_a_folder_inside_of_a_dataset_leads_to_the_dataset(flowers, tmp_path, inner):
    root = shutil.copytree(flowers.root, tmp_path / "flowers")
    with pytest.raises(FlowersError, match=f"is a folder of a dataset; name the dataset's own: --data {root}$"):
        data.find(path=str(root / inner))


def test_an_empty_folder_is_none_of_them(tmp_path):
    with pytest.raises(FlowersError, match="no flowers found: no folder `tfrecords-jpeg-<S>x<S>`"):
        data.find(path=str(tmp_path))


@pytest.mark.parametrize(
    ("asked", "given", "line"), [(24, 23, "The batch size is 23, not 24: there are only 23 "), (8, 8, "")]
)
def test_a_batch_is_not_larger_than_the_training_images(flowers, asked, given, line, capsys):
    assert data.fitting_batch_size(flowers, asked) == given
    assert capsys.readouterr().out.startswith(line)
    images, _ = next(iter(data.train_batches(flowers, given)))
    assert len(images) == given
