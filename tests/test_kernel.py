import pytest

from flowerlib import kernel
from flowerlib.config import FlowersError


def test_device_versions_and_data_are_printed(flowers, monkeypatch, capsys):
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    kernel.start(devices=1, kind="cpu")
    printed = capsys.readouterr().out
    for word in ("flowerlib 0.", "Keras 3.", "Python 3.", "1 x CPU", "23 train, 9 val, 7 test", flowers.fingerprint):
        assert word in printed


@pytest.mark.parametrize(("expected", "words"), [({"devices": 8}, "8 devices"), ({"kind": "gpu"}, "a GPU")])
def test_another_machine_is_refused_before_anything_else(expected, words, monkeypatch):
    monkeypatch.setenv("FLOWERS_DATA", "/there/is/no/such/folder")
    begin, advice = "^this session started without its accelerator: the notebook was sent to run on", "run it again, or"
    with pytest.raises(FlowersError, match=rf"{begin} {words} but only 1 x CPU .* is here; {advice} choose the accel"):
        kernel.start(**expected)


def test_missing_data_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path))
    with pytest.raises(FlowersError, match=rf"no flowers found: .*`{tmp_path}/input/competitions/tpu-getting-started`"):
        kernel.start()
