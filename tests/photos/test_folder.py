"""Folders of photographs become datasets: every file accounted for, none in two splits."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_photographs import COUNTS, SIZE, picture, read_listing, touch
from PIL import Image

from flowerlib import data
from flowerlib.config import FlowersError
from flowerlib.photos import folder
from flowerlib.photos.listing import Reading


def test_every_file_has_a_line_and_a_place_and_is_what_it_was(source, converted):
    out, _ = converted
    files = read_listing(out)
    assert Counter(row["label"] for row in files.values()) == COUNTS
    flowers = data.find(path=str(out))
    data.check(flowers, progress=False)
    assert flowers.classes == ("aster", "daisy", "Ölbaum")
    seen = {}
    for split in data.SPLITS:
        for images, labels, ids in data.eval_batches(flowers, split, 64).as_numpy_iterator():
            for image, label, name in zip(images, labels, ids, strict=True):
                seen[name.decode()] = split, label, image
    assert seen.keys() == files.keys()
    for name, (split, label, image) in seen.items():
        assert files[name]["split"] == split
        assert label == (-1 if split == "test" else flowers.classes.index(files[name]["label"]))
        cut = Image.open(source / name).convert("RGB").resize((58, SIZE), Image.Resampling.LANCZOS)
        middle = np.asarray(cut.crop((5, 0, 53, SIZE))).astype(int)
        assert abs(image - middle).mean() < 6, name  # compressed; another picture is about 60 off


def test_each_class_is_in_each_split(converted):
    files = read_listing(converted[0]).values()
    counts = Counter((row["label"], row["split"]) for row in files)
    for label, count in COUNTS.items():
        assert counts[label, "train"] > count / 2
        assert counts[label, "val"] >= 1
        assert counts[label, "test"] >= 1


def convert(source, out, **options):
    return folder.convert(source, out, image_size=SIZE, progress=False, **options)


def test_an_archive_of_archives_is_named_and_leaves_nothing(tmp_path):
    touch(tmp_path, "in/rose.zip", "in/iris.zip")
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in"))
    with pytest.raises(FlowersError, match=r"`\S+/all.zip` has 0 classes[^`]*\n2 files are no pictures .*: 2 .zip"):
        convert(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.zip", "in"]


def test_a_call_that_is_refused_keeps_what_a_stopped_one_had_prepared(tmp_path):
    touch(tmp_path, "in/one/1.jpg", ".out.preparing/of a stopped call/00000.tfrec")
    with pytest.raises(FlowersError, match="has 1 classes"):
        convert(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / ".out.preparing/of a stopped call/00000.tfrec").exists()


def test_one_photograph_more_changes_no_split(source, tmp_path):
    """As an update, and as a dataset made anew; nor do photographs that go."""
    shutil.copytree(source, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out")
    before = {name: row["split"] for name, row in read_listing(tmp_path / "out").items()}
    picture(900).save(tmp_path / "in/aster/new.png")
    os.remove(tmp_path / "in/daisy/more/05.png")
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert "Updated: 1 files more, 1 fewer, 0 with other content; all others keep their split." in summary
    convert(tmp_path / "in", tmp_path / "anew")
    for out in ("out", "anew"):
        after = {name: row["split"] for name, row in read_listing(tmp_path / out).items()}
        assert after.keys() - before.keys() == {"aster/new.png"}
        assert before.keys() - after.keys() == {"daisy/more/05.png"}
        assert all(after[name] == split for name, split in before.items() if name in after)
    data.check(data.find(path=str(tmp_path / "out")), progress=False)


def test_a_dataset_of_an_earlier_version_is_made_again_with_its_splits(source, tmp_path):
    """Before version 0.2 the choices in folder.json had no names, and another rule divided."""
    convert(source, tmp_path / "out")
    recipe = json.loads((tmp_path / "out/folder.json").read_text())
    recipe |= {"version": 1, "division": 2, "choices": [SIZE, 0.15, 0.15, "crop", 0, False]}
    (tmp_path / "out/folder.json").write_text(json.dumps(recipe))
    swap = {"val": "test", "test": "val"}
    rows = [row | {"split": swap.get(row["split"], row["split"])} for row in read_listing(tmp_path / "out").values()]
    with open(tmp_path / "out/files.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("id", "label", "split", "note"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    convert(source, tmp_path / "out")
    assert [row["split"] for row in read_listing(tmp_path / "out").values()] == [row["split"] for row in rows]


def test_photographs_of_the_same_names_and_other_content_are_others(source, tmp_path):
    """Cameras number from the beginning again."""
    shutil.copytree(source, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out")
    picture(950).save(tmp_path / "in/daisy/02.png")
    assert "Updated: 0 files more, 0 fewer, 1 with other content" in convert(tmp_path / "in", tmp_path / "out")
    before = read_listing(tmp_path / "out")
    for number, name in enumerate(before):
        picture(4000 + number).save(tmp_path / "in" / name)
    with pytest.raises(FlowersError, match="holds something else: other photographs"):
        convert(tmp_path / "in", tmp_path / "out")
    assert read_listing(tmp_path / "out") == before


def test_splits_made_anew_have_no_leakage_whatever_the_dataset_had(tmp_path):
    make_splits(tmp_path / "in", "train", "val", "test")
    shutil.copy(tmp_path / "in/val/rose/0.png", tmp_path / "in/train/rose/copy.png")
    assert "Data leakage: 1 images" in convert(tmp_path / "in", tmp_path / "out")
    assert "Data leakage" not in convert(tmp_path / "in", tmp_path / "out", reading=Reading(split="redo"))
    rows = read_listing(tmp_path / "out")
    assert rows["val/rose/0.png"]["split"] == rows["train/rose/copy.png"]["split"]


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"choices": 3}', "no json"])
def test_a_folder_with_another_folder_json_is_something_else(source, tmp_path, content):
    (tmp_path / "folder.json").write_text(content)
    (tmp_path / "files.csv").write_text("id,label,split,note\n")
    with pytest.raises(FlowersError, match="holds something else; name another folder"):
        convert(source, tmp_path)


def test_other_choices_and_other_photographs_do_not_replace_a_dataset(source, converted, tmp_path):
    out, _ = converted
    with pytest.raises(FlowersError, match=r"holds something else: it was made with `seed` \(=0\); name another"):
        convert(source, out, seed=1)
    for label in ("a", "b"):
        touch(tmp_path, f"in/{label}/")
        for number in range(4):
            picture(700 + number + 10 * (label == "b")).save(tmp_path / "in" / label / f"{number}.png")
    with pytest.raises(FlowersError, match="holds something else: other photographs; name another"):
        convert(tmp_path / "in", out)


def test_out_within_the_source_is_refused(source):
    with pytest.raises(FlowersError, match="where the next call would take it for a class"):
        convert(source, source / "out")


def make_splits(place, *splits, test_classes=True):
    """Make a folder for each split, with two classes of six pictures each."""
    for number, split in enumerate(splits):
        for label in ("rose", "iris"):
            flat = split == "test" and not test_classes
            target = place / split if flat else place / split / label
            target.mkdir(parents=True, exist_ok=True)
            for at in range(6):
                shown = picture(1000 + 100 * number + 10 * at + (label == "rose"))
                shown.save(target / f"{label if flat else ''}{at}.png")


def test_splits_of_the_source_are_kept_and_those_it_lacks_are_taken_from_train(tmp_path):
    make_splits(tmp_path / "all", "train", "valid", "test", test_classes=False)
    summary = convert(tmp_path / "all", tmp_path / "out")
    rows = read_listing(tmp_path / "out")
    assert {row["split"] for name, row in rows.items() if name.startswith("valid/")} == {"val"}
    assert {(row["split"], row["label"]) for name, row in rows.items() if name.startswith("test/")} == {("test", "")}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["iris", "rose"]
    assert "are taken for the splits" in summary
    assert "lacks" not in summary  # test has no labels, val has both
    assert data.find(path=str(tmp_path / "out")).count("test") == 12
    make_splits(tmp_path / "two", "train", "test")
    summary = convert(tmp_path / "two", tmp_path / "second", val=0.3)
    rows = read_listing(tmp_path / "second")
    assert {row["split"] for name, row in rows.items() if name.startswith("test/")} == {"test"}
    assert {row["split"] for name, row in rows.items() if name.startswith("train/")} == {"train", "val"}
    assert "There is no val: of train 30% for val are taken." in summary
    convert(tmp_path / "two", tmp_path / "third", reading=Reading(split="redo"))
    rows = read_listing(tmp_path / "third")
    assert {row["split"] for name, row in rows.items() if name.startswith("test/")} > {"train"}


def test_leakage_between_given_splits_is_said(tmp_path):
    make_splits(tmp_path / "in", "train", "val", "test")
    shutil.copy(tmp_path / "in/train/rose/0.png", tmp_path / "in/test/rose/copy.png")
    assert "Data leakage: 1 images of val or test are near-duplicates" in convert(tmp_path / "in", tmp_path / "out")


def test_contradicting_labels_are_counted_and_named(converted):
    told = "1 show what another image shows that has another label: daisy/00.png is like aster/06.png ..."
    assert told in converted[1]


@pytest.mark.parametrize("first", [0, 1])
def test_classes_that_are_numbers_are_in_their_order_and_told_where_labels_are_others(tmp_path, first):
    for label in range(first, 13):
        touch(tmp_path, f"in/{label}/")
        for number in range(4):
            picture(2000 + 10 * label + number).save(tmp_path / "in" / str(label) / f"{number}.png")
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out/classes.json").read_text()) == [str(label) for label in range(first, 13)]
    told = "Labels, in a submission too, are places in classes.json: 0 is `1`, 1 is `2`, 2 is `3`"
    assert (told in summary, "Labels" in summary) == (first == 1, first == 1)


def test_an_archive_gives_the_dataset_of_its_folder(source, converted, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "flowers"), "zip", source.parent, source.name))
    summary = convert(archive, tmp_path / "out")
    rows = {name.removeprefix(f"{source.name}/"): row["split"] for name, row in read_listing(tmp_path / "out").items()}
    assert rows == {name: row["split"] for name, row in read_listing(converted[0]).items()}
    assert f"All of it lies in `{source.name}`" in summary
    assert "holds this already" in convert(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers.zip", "out"]


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}],
)
def test_any_name_comes_through_whatever_the_locale(tmp_path, environment):
    names = ["Ölbaum/Gehölz 0.jpg", "Ba$$in/花.jpg", 'a b/🌹, "x".jpg']
    for number, name in enumerate(names):
        touch(tmp_path / "in", name)
        for at in range(3):
            picture(3000 + 10 * number + at).save((tmp_path / "in" / name).with_name(f"{at}.jpg"))
        picture(3500 + number).save(tmp_path / "in" / name)
    (tmp_path / os.fsdecode(b"in/Ba$$in/latin\xfc.jpg")).write_bytes((tmp_path / "in" / names[0]).read_bytes())
    made = subprocess.run(
        [sys.executable, "-m", "flowerlib", "folder", tmp_path / "in", tmp_path / "out", "--size", str(SIZE)],
        env=os.environ | environment,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    assert {*names, r"Ba$$in/latin\xfc.jpg"} < read_listing(tmp_path / "out").keys()
    assert data.find(path=str(tmp_path / "out")).classes == ("Ba$$in", "a b", "Ölbaum")


def test_a_class_that_is_missing_from_a_split_is_said_to_be(tmp_path):
    """Three bursts of four, all but alike: a burst is more than twice the share that val or test is to have."""
    for label in ("many", "bursts"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(12):
            shown = picture(400 + number if label == "many" else 500 + number // 4)
            shown.save(tmp_path / "in" / label / f"{number:02d}.jpg", quality=80 + number)
    summary = folder.convert(tmp_path / "in", tmp_path / "out", image_size=SIZE, progress=False)
    bursts = [row for row in read_listing(tmp_path / "out").values() if row["label"] == "bursts"]
    counts = Counter(row["split"] for row in bursts)
    assert counts == {"train": 12}
    assert Counter(row["note"] for row in bursts)["none of its class in val or test"] == 3
    assert "3 of classes that val or test lacks: bursts/00.jpg ..." in summary
    assert "of classes with fewer than" not in summary


def test_what_shows_the_same_stays_together_and_is_listed(converted):
    out, summary = converted
    files = read_listing(out)
    assert files["aster/02.png"]["note"] == files["aster/04.jpg"]["note"] == "like aster/00.png"
    assert len({files[name]["split"] for name in ("aster/00.png", "aster/02.png", "aster/04.jpg")}) == 1
    assert files["daisy/00.png"]["note"] == "like aster/06.png, which has another label"
    assert files["daisy/00.png"]["split"] == files["aster/06.png"]["split"]
    assert sum(row["note"] != "" for row in files.values()) == 3
    assert "3 duplicates or near-duplicates" in summary


def test_the_same_call_does_nothing_and_another_one_is_refused(source, converted):
    out, _ = converted
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "holds this already" in folder.convert(source, out, image_size=SIZE, progress=False)
    with pytest.raises(FlowersError, match=r"holds something else: .*; name another folder"):
        folder.convert(source, out, image_size=SIZE, seed=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_csv_gives_the_same_dataset_and_another_seed_another_one(source, converted, tmp_path):
    listing = source.parent / "listing.csv"
    rows = [(name, row["label"]) for name, row in read_listing(converted[0]).items()]
    with open(listing, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{source.name}/{name}", label) for name, label in rows)])
    folder.convert(listing, tmp_path / "csv", image_size=SIZE, progress=False)
    folder.convert(source, tmp_path / "other", image_size=SIZE, seed=1, progress=False)
    splits, from_csv, other = (
        {name.removeprefix(f"{source.name}/"): row["split"] for name, row in read_listing(out).items()}
        for out in (converted[0], tmp_path / "csv", tmp_path / "other")
    )
    assert from_csv == splits
    assert other != splits


def nasty_files(place):
    """Thirty files of two classes; return the sound ones and, for each of the others, why it cannot be used."""
    for label in "ab":
        (place / label).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.linspace(0, 65535, 48 * 48).astype(np.uint16).reshape(48, 48))
    frames = [picture(330 + number) for number in range(3)]
    sound = {
        "a/plain.jpg": (picture(300), {}),
        "a/plain.png": (picture(301), {}),
        "a/turned.jpg": (picture(302), {"exif": exif}),
        "a/cmyk.jpg": (picture(303).convert("CMYK"), {}),
        "a/grey.jpg": (picture(304).convert("L"), {}),
        "a/grey with alpha.png": (picture(305).convert("LA"), {}),
        "a/transparent.png": (picture(306).convert("RGBA"), {}),
        "a/palette.png": (picture(307).convert("P"), {}),
        "a/black and white.png": (picture(308).convert("1"), {}),
        "a/deep.png": (deep, {}),
        "a/deep.tiff": (picture(309).convert("F"), {}),
        "b/moving.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "b/moving.webp": (frames[1], {"save_all": True, "append_images": frames[2:]}),
        "b/pages.tiff": (frames[2], {"save_all": True, "append_images": frames[:1]}),
        "b/picture.bmp": (picture(310), {}),
        "b/progressive.jpg": (picture(311), {"progressive": True}),
        "b/no ending": (picture(312), {"format": "PNG"}),
        "b/LOUD.JPG": (picture(313), {}),
        "b/wrong ending.gif": (picture(314), {"format": "JPEG"}),
        'b/a line\nbreak, "quotes".png': (picture(315), {}),
        f"b/{'long' * 50}ümläut 花.png": (picture(316), {}),
        "b/thin.png": (picture(317).resize((400, 2)), {}),
    }
    for name, (image, settings) in sound.items():
        image.save(place / name, **settings)
    plain = (place / "a/plain.jpg").read_bytes()
    (place / "a/empty.jpg").write_bytes(b"")
    (place / "a/text.jpg").write_bytes(b"no image at all")
    (place / "a/cut.jpg").write_bytes(plain[:-300])
    Image.new("1", (20_000, 20_000)).save(place / "b/bomb.png")
    os.symlink("loop.jpg", place / "b/loop.jpg")
    (place / "b/raw.nef").write_bytes(b"IIRO" + bytes(20))
    (place / "b/locked.jpg").write_bytes(plain)
    (place / "b/locked.jpg").chmod(0)
    os.mkfifo(place / "b/pipe.jpg")
    os.symlink("..", place / "b/upwards")  # leads to nothing new
    return list(sound), {
        "a/empty.jpg": "is empty",
        "a/text.jpg": "is no image that Pillow knows",
        "a/cut.jpg": "cannot be read: ",
        "b/bomb.png": "has more than 178,956,970 pixels",
        "b/loop.jpg": "cannot be read: Too many levels of symbolic links",
        "b/raw.nef": "is a camera's RAW file",
        "b/locked.jpg": "cannot be read: Permission denied",
        "b/pipe.jpg": "is no file",
    }


def test_each_of_thirty_nasty_files_is_used_or_named(tmp_path):
    sound, broken = nasty_files(tmp_path / "nasty")
    assert len(sound) + len(broken) == 30
    command = [sys.executable, "-m", "flowerlib", "folder", tmp_path / "nasty", tmp_path / "out", "--size", str(SIZE)]
    if os.geteuid() == 0:  # who may read what is locked
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    refused = subprocess.run(command, capture_output=True)
    errors = refused.stderr.decode(errors="replace")
    assert refused.returncode == 1
    assert "8 of 30 files cannot be used" in errors
    assert not (tmp_path / "out").exists()
    for name, reason in broken.items():
        assert f"`{name}` {reason}" in errors
    subprocess.run([*command, "--skip-broken"], check=True, capture_output=True)
    files = read_listing(tmp_path / "out")
    assert {name for name, row in files.items() if row["split"]} == set(sound)
    assert {name for name, row in files.items() if not row["split"]} == broken.keys()
    for name, reason in broken.items():
        assert files[name]["note"].startswith(f"left out: {reason}")
    assert sum(data.find(path=str(tmp_path / "out")).count(split) for split in data.SPLITS) == 22


def test_a_class_with_too_few_is_in_train_only_and_said_to_be(tmp_path):
    for label, count in (("many", 9), ("few", 2)):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(count):
            picture(200 + number + 50 * (label == "few")).save(tmp_path / "in" / label / f"{number}.jpg")
    summary = folder.convert(tmp_path / "in", tmp_path / "out", image_size=SIZE, progress=False)
    assert "2 of classes with fewer than 3 different photographs, in train" in summary
    few = [row for row in read_listing(tmp_path / "out").values() if row["label"] == "few"]
    assert {(row["split"], row["note"]) for row in few} == {
        ("train", "its class has fewer than 3 different photographs: train only")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, r"`image_size` \(=8\)"),
        ({"val": 0.0}, r"`val` \(=0.0\)"),
        ({"val": 0.5, "test": 0.5}, "together below 1"),
        ({"fit": "squeeze"}, r"`fit` \(=squeeze\) must be crop or pad"),
        ({"seed": -1}, r"`seed` \(=-1\)"),
    ],
)
def test_a_choice_out_of_range_is_refused(source, tmp_path, options, message):
    with pytest.raises(FlowersError, match=message):
        folder.convert(source, tmp_path / "out", progress=False, **options)


@pytest.mark.parametrize(("sound", "message"), [((), "0 classes have a file"), (("a",), "1 classes have a file")])
def test_a_class_of_which_nothing_can_be_read_is_no_class(tmp_path, sound, message):
    for label in ("a", "b"):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "broken.jpg").write_bytes(b"no image")
        for number in range(5 if label in sound else 0):
            picture(number).save(tmp_path / "in" / label / f"{number}.png")
    with pytest.raises(FlowersError, match=message):
        folder.convert(tmp_path / "in", tmp_path / "out", image_size=SIZE, skip_broken=True, progress=False)
