import pytest
from sample_records import SMALL

from flowerlib import sample


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return the folder of a sample of 60 pictures; tests only read it."""
    root = tmp_path_factory.mktemp("small") / "sample"
    sample.write(root, num_images=SMALL, progress=False)
    return root


@pytest.fixture(scope="session")
def default(tmp_path_factory):
    """Return the folder of the default sample; tests only read it."""
    root = tmp_path_factory.mktemp("default") / "sample"
    sample.write(root, progress=False)
    return root
