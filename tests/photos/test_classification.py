"""Photographs and a saved model: the same answers as in the notebook that trained it."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import tiny
from PIL import Image

from flowerlib import networks, predictions
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.photos import classification


@pytest.fixture(scope="module", params=[32, None])
def run(request, flowers, tmp_path_factory):
    """What a run on images of 24 px, seen at 32 px or as they are, left; the folder and its predictions for val."""
    place = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        expected = tiny.write_run(flowers, eval_size=request.param)
    return place / "runs/tiny", expected


@pytest.fixture
def images(photographs_of_val):
    return photographs_of_val


def test_a_file_gets_the_very_probabilities_that_its_record_got_calibrated(run, images):
    folder, expected = run
    model = classification.load(folder)
    assert model.temperature == model.record["temperature"] != 1.0
    results = {
        path.stem: value for path, value in classification.classify(model, classification.find_images([images])[0], 4)
    }
    assert results.keys() == set(expected.ids)
    calibrated = predictions.calibrate(predictions.load(folder).val.probabilities, model.temperature)
    for name, probabilities in zip(expected.ids, calibrated, strict=True):
        np.testing.assert_allclose(results[name], probabilities, atol=1e-5)


def test_a_model_folder_that_was_moved_is_all_it_needs(run, images, tmp_path):
    shutil.copytree(run[0] / "model", tmp_path / "elsewhere")
    moved, first = classification.load(tmp_path / "elsewhere"), classification.load(run[0])
    assert moved.classes == first.classes
    image = moved.pixels(next(iter(images.iterdir())))[None]
    assert image.shape == (1, moved.image_size, moved.image_size, 3)
    np.testing.assert_array_equal(moved.probabilities(image), first.probabilities(image))


@pytest.mark.parametrize("missing", classification.MODEL_FILES)
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(run, tmp_path, missing):
    shutil.copytree(run[0] / "model", tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(FlowersError, match=f"has no {missing}"):
        classification.load(tmp_path / "model")


def test_a_model_of_a_newer_keras_is_told_to_be_one(run, tmp_path):
    """Which knows arguments of layers that the one here does not."""
    shutil.copytree(run[0] / "model", tmp_path / "model")
    with ZipFile(run[0] / "model/model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["metadata.json"] = json.dumps({"keras_version": "99.1.0"}).encode()
    files["config.json"] = files["config.json"].replace(b'"filters"', b'"of_the_future": null, "filters"')
    with ZipFile(tmp_path / "model/model.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(FlowersError, match=r"was saved by Keras 99.1.0, which the Keras 3\.\S+ here cannot read: pip"):
        classification.load(tmp_path / "model")


def test_a_folder_with_runs_below_it_is_told_their_names(run, tmp_path):
    shutil.copytree(run[0] / "model", tmp_path / "runs/mine/model")
    with pytest.raises(FlowersError, match=f"pass a run folder, such as `{tmp_path / 'runs/mine'}`"):
        classification.load(tmp_path)
    with pytest.raises(FlowersError, match=f"`{tmp_path}/nowhere` does not exist; pass a run folder"):
        classification.load(tmp_path / "nowhere")


def test_the_likeliest_names_come_first(run):
    model = classification.load(run[0])
    probabilities = np.array([0.1, 0.6, 0.1, 0.2])
    assert model.top(probabilities, 3) == [("iris", 0.6), ("lotus", 0.2), ("daisy", 0.1)]


def test_every_form_tells_the_same(run, images, capsys):
    model = classification.load(run[0])
    printed = {}
    for form in ("text", "json", "csv"):
        classification.report(model, [images], 2, form)
        printed[form] = capsys.readouterr().out
    lines = [json.loads(line) for line in printed["json"].splitlines()]
    rows = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert len(lines) == len(printed["text"].splitlines()) == len(rows) / 2 == 9
    for line, text, first in zip(lines, printed["text"].splitlines(), rows[::2], strict=True):
        best = line["predictions"][0]
        assert text.startswith(f"{line['file']}: {best['class']} {best['probability']:.1%}")
        assert (first["file"], first["rank"], first["class"]) == (line["file"], "1", best["class"])
        assert float(first["probability"]) == pytest.approx(best["probability"], abs=1e-6)


@pytest.mark.parametrize("smoke_test", [True, False])
def test_answers_of_a_rehearsal_are_marked_where_programs_do_not_read(smoke_test, run, images, capsys):
    model = classification.load(run[0])
    model = replace(model, record=model.record | {"smoke_test": smoke_test})
    classification.report(model, [images], 1, "json")
    shown = capsys.readouterr()
    assert ("SMOKE TEST" in shown.err) == smoke_test
    assert "SMOKE TEST" not in shown.out


def test_what_cannot_be_read_is_named_and_the_others_are_answered(run, images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    (tmp_path / "images/.hidden").write_bytes(b"")
    with pytest.raises(FlowersError, match="1 of 10 images could not be read"):
        classification.report(classification.load(run[0]), [tmp_path / "images"], 1, "text")
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 9
    assert "broken.jpg` is no image that Pillow knows" in shown.err


def test_places_without_images_are_refused(tmp_path):
    with pytest.raises(FlowersError, match="does not exist"):
        classification.find_images([tmp_path / "nowhere"])
    with pytest.raises(FlowersError, match="has no pictures"):
        classification.find_images([tmp_path])


def test_a_model_may_be_named_by_its_file(run, tmp_path):
    by_file, by_run = (classification.load(place) for place in (run[0] / "model/model.keras", run[0]))
    assert by_file.classes == by_run.classes
    shutil.copytree(run[0] / "model", tmp_path / "copied")
    assert classification.load(tmp_path / "copied/model.keras").record == by_run.record
    shutil.copy(run[0] / "model/model.keras", tmp_path / "copied/other.keras")
    for other in ("other.keras", "run.json"):
        with pytest.raises(FlowersError, match=f"{other}` is a file and no model.keras; pass a run folder"):
            classification.load(tmp_path / "copied" / other)
    shutil.copy(run[0] / "model/model.keras", tmp_path / "model.keras")
    with pytest.raises(FlowersError, match=r"has no classes.json"):
        classification.load(tmp_path / "model.keras")


def test_what_is_no_picture_is_passed_over_and_counted(images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    for name in ("notes.txt", "film.mp4", "more.txt", ".hidden.jpg", "Thumbs.db", "@eaDir/thumb.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    found, notes = classification.find_images([folder])
    assert found == sorted(folder.glob("*.jpg"))[1:]  # all but the hidden one
    assert notes == [f"`{folder}`: 3 files are no pictures and are passed over: 2 .txt, 1 .mp4."]
    assert classification.find_images([folder / "notes.txt"]) == ([folder / "notes.txt"], [])
    with pytest.raises(FlowersError, match=r"has no pictures; .*\n.* 1 files are no pictures"):
        classification.find_images([touched(tmp_path / "texts/only.txt").parent])


def touched(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_links_are_followed_but_not_in_a_circle(images, tmp_path):
    (tmp_path / "photographs/inner").mkdir(parents=True)
    (tmp_path / "photographs/album").symlink_to(images)
    (tmp_path / "photographs/inner/above").symlink_to(tmp_path / "photographs")
    (tmp_path / "photographs/again").symlink_to(images)
    found, notes = classification.find_images([tmp_path / "photographs"])
    assert len(found) == 9
    assert [note.partition(": ")[2] for note in notes] == [
        "No picture is in `inner`.",
        "Links to folders that are listed already are passed over: `album`, `inner/above`.",
    ]


@pytest.mark.parametrize(
    "address", ["https://example.org/rose.jpg", "http://example.org/", "s3://bucket/rose.jpg", "file:///rose.jpg"]
)
def test_an_address_is_refused_by_name_with_the_remedy(address):
    with pytest.raises(FlowersError, match=r"is an address; download it and .* standard input") as error:
        classification.find_images([Path(address)])
    assert address.replace("///", "//").rstrip("/") in str(error.value)


@pytest.mark.parametrize("name", ["data:image/png;base64,AAAA", "x" * 5000 + ".jpg", "no\nfile.jpg"])
def test_what_can_be_no_file_is_refused_in_few_words(name):
    with pytest.raises(FlowersError, match=r"is an address|does not exist") as error:
        classification.find_images([Path(name)])
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_a_photograph_of_another_form_is_cut_as_its_dataset_was(run):
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, 24:72] = 255  # the middle square is white
    Image.fromarray(wide).save(buffer := io.BytesIO(), "PNG")
    seen = classification.load(run[0]).pixels(buffer)
    assert (seen[:, 4:-4] >= 250).all()
    assert (seen > 220).all()  # at the edges a filter looks a pixel further, and it was compressed


def test_the_mean_of_the_activation_map_gives_the_probabilities(run, images):
    model = classification.load(run[0])
    image = model.pixels(next(iter(images.iterdir())))
    found = model.activation_map(image)
    logs = np.log(model.outputs(image[None])[0])
    np.testing.assert_allclose(found.values.mean(axis=(0, 1)), logs - logs.mean(), atol=1e-4)


def test_the_activation_map_is_high_where_the_flower_is():
    """A network that was built to take what is red for a rose, whatever the scale of its features."""
    pixels, scaling = keras.Input((24, 24, 3)), keras.layers.Normalization()
    layers = [keras.layers.AveragePooling2D(4), keras.layers.GlobalAveragePooling2D(), scaling, networks.head(2, 0.5)]
    model = keras.Sequential([pixels, *layers])
    scaling.adapt(np.random.default_rng(0).normal(100, 50, (64, 3)))
    layers[-1].set_weights([np.array([[1.0, -1.0], [0, 0], [0, 0]]), np.array([0.5, -0.5])])
    image = np.zeros((24, 24, 3), np.uint8)
    image[4:12, 12:20, 0] = 255
    found = classification.Classifier(model, ("rose", "grass"), 24, 24, "crop", {}).activation_map(image)
    assert found.values.shape == (6, 6, 2)
    rose = np.zeros((6, 6), bool)
    rose[1:3, 3:5] = True
    np.testing.assert_array_equal(found.values[..., 0] > found.values[..., 0].mean(), rose)
    np.testing.assert_allclose(found.values[..., 1], -found.values[..., 0], atol=1e-6)
    np.testing.assert_allclose(found.features, [255 * 4 / 36, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("compiled", "sizes"),
    [
        (False, [2, 6, 32, 32, 2, 5]),
        (True, [2, 8, 32, 32, 2, 8]),  # compiled anew for each size: let there be few
    ],
)
def test_the_network_gets_few_sizes_of_batches_where_it_is_compiled_and_never_a_large_one(compiled, sizes):
    """One and three images with their mirror images; 33 with theirs, which are 66; five without."""
    seen = []

    class Watched(keras.Sequential):
        def predict_on_batch(self, images):
            seen.append(len(images))
            return super().predict_on_batch(images)

    mean = networks.head(3)
    model = Watched([keras.Input((24, 24, 3)), keras.layers.GlobalAveragePooling2D(), mean])
    mean.set_weights([np.eye(3) / 100, np.zeros(3)])
    model.jit_compile = compiled
    named = classification.Classifier(model, ("red", "green", "blue"), 24, 24, "crop", {})
    images = np.random.default_rng(0).integers(0, 256, (33, 24, 24, 3), np.uint8)
    powers = np.exp(images.mean(axis=(1, 2)) / 100)
    for count, run in (
        (1, named.probabilities),
        (3, named.probabilities),
        (33, named.probabilities),
        (5, named.outputs),
    ):
        probabilities = run(images[:count])
        np.testing.assert_allclose(probabilities, (powers / powers.sum(axis=1, keepdims=True))[:count], atol=1e-5)
    assert seen == sizes


def test_only_classes_above_the_threshold_are_printed(run, images, capsys):
    model = classification.load(run[0])
    classification.report(model, [images], 4, "json")
    everything = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    classification.report(model, [images], 4, "json", threshold=0.3)
    kept = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    assert kept == [[one for one in line if one["probability"] >= 0.3] for line in everything]
    classification.report(model, [images], 4, "text", threshold=1.0)
    assert capsys.readouterr().out.count(": no class is probable enough\n") == 9


def test_an_image_on_standard_input_gets_the_probabilities_of_its_file(run, images, capsys, monkeypatch):
    path, model = next(iter(images.iterdir())), classification.load(run[0])
    classification.report(model, [path], 2, "csv")
    of_file = capsys.readouterr().out
    classification._standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8"))
    classification.report(model, [classification.STDIN], 2, "csv")
    assert capsys.readouterr().out == of_file.replace(str(path), "-")


def test_explanations_of_long_and_of_equal_names_are_all_kept(run, images, tmp_path, capsys):
    model, content = classification.load(run[0]), next(iter(images.iterdir())).read_bytes()
    names = ("a/0.jpg", "b/0.jpg", f"a/{'z' * 235}.jpg", f"a/{'z' * 234}y.jpg", f"a/{'ö' * 120}.jpg")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    classification.report(model, [tmp_path / "in"], 1, "text", explain=tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == len(names)


def test_explanations_are_images_lit_by_the_map_of_the_most_probable_class(run, images, tmp_path, capsys):
    path, model = next(iter(images.iterdir())), classification.load(run[0])
    classification.report(model, [path], 1, "text", explain=tmp_path)
    [written] = tmp_path.iterdir()
    image = model.pixels(path)
    label = int(model.probabilities(image[None])[0].argmax())
    assert written.name == f"{path.name}-{model.classes[label]}.png"
    values = model.activation_map(image).values[..., label]
    found = np.asarray(Image.open(written), np.float32)
    y, x = np.unravel_index(values.argmax(), values.shape)
    step = image.shape[0] / values.shape[0]
    at = round((y + 0.5) * step), round((x + 0.5) * step)
    np.testing.assert_allclose(found[at], image[at], atol=40)  # where the map is highest, the image is as it was
    dark = values <= 0
    if dark.any():
        assert found.mean() < image.mean()
