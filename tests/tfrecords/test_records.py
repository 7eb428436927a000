"""Records by their position: against TensorFlow's own reader."""

import os

import numpy as np
import pytest

from flowerlib.accelerator import tf
from flowerlib.tfrecords.records import Records

LENGTHS = (1, 0, 4000, 17, 300)


@pytest.fixture(scope="module")
def contents():
    """What stands in each of three files; one record is empty."""
    rng = np.random.default_rng(0)
    return [[rng.bytes(length) for length in lengths] for lengths in (LENGTHS, LENGTHS[:2], LENGTHS[3:])]


def flat(contents):
    return [record for records in contents for record in records]


def written(folder, contents):
    folder.mkdir(exist_ok=True)
    paths = [f"{folder}/{number}.tfrec" for number in range(len(contents))]
    for path, records in zip(paths, contents, strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
    return paths


def test_all_records_are_those_that_tensorflow_reads_in_the_order_of_the_files(contents, tmp_path):
    paths = written(tmp_path, contents)
    records = Records(paths)
    assert len(records) == 9
    fetched = records.fetch(np.arange(9)).tolist()
    assert fetched == list(tf.data.TFRecordDataset(paths).as_numpy_iterator()) == flat(contents)


def test_any_order_and_any_repetition_is_served(contents, tmp_path):
    records, expected = Records(written(tmp_path, contents)), flat(contents)
    positions = [8, 0, 3, 3, 1]
    assert records.fetch(np.array(positions)).tolist() == [expected[position] for position in positions]


@pytest.mark.parametrize(("cut", "left"), [(1, 8), (16 + 300, 8), (16 + 300 + 1, 7)])
def test_a_record_that_is_cut_off_is_not_counted(contents, tmp_path, cut, left):
    last = written(tmp_path, contents)[-1]
    os.truncate(last, os.path.getsize(last) - cut)
    assert len(Records([*written(tmp_path, contents[:-1]), last])) == left


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists a process's open files")
def test_no_file_stays_open(contents, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    records = Records(written(tmp_path, contents))
    records.fetch(np.arange(9))
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_files_than_a_process_may_open_are_read(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    contents = [[str(number).encode()] for number in range(300)]
    records = Records(written(tmp_path, contents))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert records.fetch(np.arange(300)).tolist() == flat(contents)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
