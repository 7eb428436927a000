"""Photographs and a saved model: the same answers as in the notebook that trained it."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from flowerlib import data, predictions, recogniser, record, training
from flowerlib.accelerator import Device
from flowerlib.config import FlowersError


@pytest.fixture(scope="module", params=[32, None])
def run(request, flowers, tmp_path_factory):
    """What a run on images of 24 px, seen at 32 px or as they are, left; the folder and its predictions for val."""
    place = tmp_path_factory.mktemp("run")
    choices = training.Run(
        name="tiny", backbone="none", retrain=True, image_size=24, batch_size=4, epochs=1, warmup_epochs=0, peak_lr=0.1,
        weight_decay=0.0, label_smoothing=0.0, dropout=0.0, mix="none", seed=0, eval_size=request.param,
    )  # fmt: skip
    model = tiny.network(4, image_size=None)
    model.set_weights([3 * weight for weight in model.get_weights()])  # surer, so that answers differ
    said = {
        split: predictions.predict(model, data.eval_batches(flowers, split, 8, image_size=request.param), 8)
        for split in ("val", "test")
    }
    measured = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", "compiled")
    history = {name: [1.0] for name in measured}
    device = Device("cpu", "a CPU", 1, "tensorflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        record.save_run(choices, model, history, flowers=flowers, device=device, weights="random", **said)
    return place / "runs/tiny", said["val"]


@pytest.fixture(scope="module")
def images(flowers, records_of_val, tmp_path_factory):
    """The JPEGs of val as files, named by their ids."""
    place = tmp_path_factory.mktemp("images")
    for record_ in records_of_val:
        (place / f"{record_['id'].decode()}.jpg").write_bytes(record_["image"])
    return place


@pytest.fixture(scope="module")
def records_of_val(_records):
    return [record_ for shard in _records["val"] for record_ in shard]


def test_a_file_gets_the_very_probabilities_that_its_record_got(run, images):
    folder, said = run
    model = recogniser.load(folder)
    found = {path.stem: value for path, value in recogniser.recognise(model, recogniser.find_images([images]), 4)}
    assert found.keys() == set(said.ids)
    for name, probabilities in zip(said.ids, said.probabilities, strict=True):
        np.testing.assert_allclose(found[name], probabilities, atol=1e-6)


def test_a_model_folder_that_was_moved_is_all_it_needs(run, images, tmp_path):
    shutil.copytree(run[0] / "model", tmp_path / "elsewhere")
    moved, first = recogniser.load(tmp_path / "elsewhere"), recogniser.load(run[0])
    assert moved.classes == first.classes
    image = moved.pixels(next(iter(images.iterdir())))[None]
    assert image.shape == (1, moved.image_size, moved.image_size, 3)
    np.testing.assert_array_equal(moved.probabilities(image), first.probabilities(image))


@pytest.mark.parametrize("missing", recogniser.FILES)
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(run, tmp_path, missing):
    shutil.copytree(run[0] / "model", tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(FlowersError, match=f"has no {missing}"):
        recogniser.load(tmp_path / "model")


def test_the_likeliest_names_come_first(run):
    model = recogniser.load(run[0])
    probabilities = np.array([0.1, 0.6, 0.1, 0.2])
    assert model.top(probabilities, 3) == [("iris", 0.6), ("lotus", 0.2), ("daisy", 0.1)]


def test_every_form_tells_the_same(run, images, capsys):
    model = recogniser.load(run[0])
    printed = {}
    for form in ("text", "json", "csv"):
        recogniser.report(model, [images], 2, form)
        printed[form] = capsys.readouterr().out
    lines = [json.loads(line) for line in printed["json"].splitlines()]
    rows = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert len(lines) == len(printed["text"].splitlines()) == len(rows) / 2 == 9
    for line, text, first in zip(lines, printed["text"].splitlines(), rows[::2], strict=True):
        best = line["predictions"][0]
        assert text.startswith(f"{line['file']}: {best['class']} {best['probability']:.1%}")
        assert (first["file"], first["rank"], first["class"]) == (line["file"], "1", best["class"])
        assert float(first["probability"]) == pytest.approx(best["probability"], abs=1e-6)


def test_what_cannot_be_read_is_named_and_the_others_are_answered(run, images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    (tmp_path / "images/.hidden").write_bytes(b"")
    with pytest.raises(FlowersError, match="1 of 10 images could not be read"):
        recogniser.report(recogniser.load(run[0]), [tmp_path / "images"], 1, "text")
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 9
    assert "broken.jpg` is no image that Pillow knows" in shown.err


def test_places_without_images_are_refused(tmp_path):
    with pytest.raises(FlowersError, match="is not there"):
        recogniser.find_images([tmp_path / "nowhere"])
    with pytest.raises(FlowersError, match="has no files"):
        recogniser.find_images([tmp_path])


def test_a_photograph_of_another_form_is_cut_as_its_dataset_was(run):
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, 24:72] = 255  # the middle square is white
    Image.fromarray(wide).save(buffer := io.BytesIO(), "PNG")
    seen = recogniser.load(run[0]).pixels(buffer)
    assert (seen[:, 4:-4] >= 250).all()
    assert (seen > 220).all()  # at the edges a filter looks a pixel further, and it was compressed
