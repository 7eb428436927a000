import pytest
from IPython.core.interactiveshell import InteractiveShell

from flowerlib import kernel
from flowerlib.config import FlowersError


def test_device_versions_and_data_are_printed(flowers, monkeypatch, capsys):
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    kernel.start(devices=1, kind="cpu")
    printed = capsys.readouterr().out
    for word in (
        "flowerlib 0.",
        " keras 3.",
        "python 3.",
        " cores, ",
        "1 x CPU",
        "23 train, 9 val, 7 test",
        flowers.fingerprint,
    ):
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


def test_in_a_notebook_an_error_is_a_line_and_no_traceback(capsys):
    shell = InteractiveShell()
    result = shell.run_cell("from flowerlib import kernel; kernel.start(devices=8)")
    assert isinstance(result.error_in_exec, FlowersError)
    printed = capsys.readouterr().out
    assert "the notebook was sent to run on 8 devices but only 1 x CPU" in printed
    assert "Traceback" not in printed
    assert len([line for line in printed.splitlines() if "flowerlib/" in line]) == 0
