"""A folder of photographs and the dataset made of it; tests only read them."""

import os

import pytest
from made_photographs import COUNTS, SIZE, picture
from PIL import Image

from flowerlib.photos import folder


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """37 images of three classes, among them a copy, a mirror image and a near-duplicate with another label."""
    source = tmp_path_factory.mktemp("photographs")
    seed = 0
    for label, count in COUNTS.items():
        (source / label / "more").mkdir(parents=True)
        for number in range(count):
            place = source / label / ("more" if number % 2 else "")
            picture(seed).save(place / f"{number:02d}.png")
            seed += 1
    first = Image.open(source / "aster/00.png")
    first.save(source / "aster/02.png")
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(source / "aster/04.jpg", quality=85)
    os.remove(source / "aster/04.png")
    Image.open(source / "daisy/00.png").resize((90, 75)).save(source / "aster/06.png")
    (source / ".hidden").mkdir()
    (source / "daisy/.DS_Store").write_bytes(b"nothing")
    return source


@pytest.fixture(scope="session")
def converted(source, tmp_path_factory):
    """Return the dataset made of `source`, and the summary that was returned."""
    out = tmp_path_factory.mktemp("converted") / "flowers"
    summary = folder.convert(source, out, image_size=SIZE, progress=False)
    return out, summary
