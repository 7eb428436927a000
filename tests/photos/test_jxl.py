"""JPEG XL says its size before anything is decoded."""

import io
from contextlib import contextmanager

import pytest
from PIL import Image

from flowerlib.config import FlowersError
from flowerlib.photos import jxl, photo


def written(size, **options):
    Image.new("RGB", size, "red").save(buffer := io.BytesIO(), "JXL", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 128), (264, 8), (257, 255), (640, 480), (480, 640), (1920, 1080), (1200, 1000), (9000, 3)],
)
def test_the_size_is_that_of_the_image_which_the_plug_in_wrote(size):
    assert jxl.num_pixels(written(size)) == size[0] * size[1]


def test_it_is_found_in_a_container():
    exif = Image.Exif()
    exif[0x010E] = "a flower"
    content = written((123, 77), exif=exif.tobytes())
    assert content.startswith(jxl.SIGNATURES[1])
    assert jxl.num_pixels(content) == 123 * 77


def test_an_image_with_too_many_pixels_is_refused_by_its_first_bytes_alone():
    head = written((1200, 1000))[:32]
    with pytest.raises(FlowersError, match="has 1,200,000 pixels, more than 1,000,000"):
        photo.read(io.BytesIO(head), 64, max_pixels=1_000_000)
    with pytest.raises(FlowersError, match="cannot be read"):
        photo.read(io.BytesIO(head), 64)
    with pytest.raises(ValueError, match="is cut short"):
        jxl.num_pixels(jxl.SIGNATURES[1])


def test_memory_is_reserved_once_and_before_it_is_opened(monkeypatch):
    events = []

    @contextmanager
    def memory(count):
        events.append(count)
        yield
        events.append("released")

    opened = photo.preprocess.open_image
    monkeypatch.setattr(photo.preprocess, "open_image", lambda file: (events.append("opened"), opened(file))[1])
    photo.as_jpeg(io.BytesIO(written((100, 50))), 32, memory=memory)
    assert events == [3 * 100 * 50, "opened", "released"]
