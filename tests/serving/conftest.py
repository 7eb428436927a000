"""Two services that the tests of this wing share."""

import pytest
from service_process import served

from flowerlib.photos import classification

LIMITED = ("--max-bytes", "2000000", "--max-pixels", "20000000", "--max-files", "4", "--seconds", "2", "--queue", "6")


@pytest.fixture(scope="session")
def service(trained, tmp_path_factory):
    """The address of a service as it is started without options."""
    folder = tmp_path_factory.mktemp("service")
    with served(trained, folder) as (address, _):
        yield address
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture(scope="session")
def limited(trained, tmp_path_factory):
    """The address of a service with limits that a test can reach."""
    with served(trained, tmp_path_factory.mktemp("limited"), *LIMITED) as (address, _):
        yield address


@pytest.fixture(scope="session")
def expected(trained, photographs_of_val):
    """The classifier, and file name -> the probabilities of each file of val."""
    classifier = classification.load(trained)
    files = sorted(photographs_of_val.iterdir())
    return classifier, {path.name: row for path, row in classification.classify(classifier, files)}
