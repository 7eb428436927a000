"""Files that are elsewhere: copied once, verified, fetched anew where the copy is damaged or not what was found."""

import hashlib
import os

import pytest

from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.data import storage

CONTENT = bytes(range(256)) * 10
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def elsewhere(request):
    """Return the path of a file in a file system that only TensorFlow reads."""
    path = f"ram://{request.node.name}/file.tfrec"
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(CONTENT)
    return path


def test_a_file_of_this_machine_is_taken_where_it_is(tmp_path):
    path = tmp_path / "file.tfrec"
    path.write_bytes(CONTENT)
    assert storage.local_copy(str(path), tmp_path / "cache", DIGEST) == path
    assert not (tmp_path / "cache").exists()


def test_a_file_elsewhere_is_fetched_once(elsewhere, tmp_path):
    copy = storage.local_copy(elsewhere, tmp_path, DIGEST)
    assert copy.read_bytes() == CONTENT
    tf.io.gfile.remove(elsewhere)
    assert storage.local_copy(elsewhere, tmp_path, DIGEST) == copy
    assert sorted(os.listdir(tmp_path)) == ["file.tfrec", "file.tfrec.sha256"]


def test_a_copy_that_was_damaged_is_named_and_fetched_again(elsewhere, tmp_path, capsys):
    copy = storage.local_copy(elsewhere, tmp_path, DIGEST)
    copy.write_bytes(CONTENT[:-1] + b"?")
    assert storage.local_copy(elsewhere, tmp_path, DIGEST).read_bytes() == CONTENT
    printed = f"`{copy}` is damaged, or has no checksum: set aside as `.aside-1.file.tfrec`, and made again.\n"
    assert capsys.readouterr().out == printed


def test_a_file_that_is_not_what_was_found_is_refused_and_not_kept(elsewhere, tmp_path):
    with tf.io.gfile.GFile(elsewhere, "wb") as file:
        file.write(CONTENT[::-1])
    with pytest.raises(FlowersError, match=f"`{elsewhere}` was replaced while it was read; run the same command again"):
        storage.local_copy(elsewhere, tmp_path, DIGEST)
    assert [name for name in os.listdir(tmp_path) if "tfrec" in name] == []
