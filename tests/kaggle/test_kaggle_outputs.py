"""Outputs are downloaded whole or not at all."""

from kaggle_helpers import POLL, REFS, pushed


def test_output_of_several_pages_comes_whole(server, kaggle, folder):
    files = {f"runs/a/{number}.txt": bytes([number]) * number for number in range(25)}
    server.outputs[REFS["01_eda"]], server.page_size = files, 4
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    for name, content in files.items():
        assert (folder / "outputs/kaggle/input/01_eda" / name).read_bytes() == content


def test_a_damaged_download_is_fetched_again(server, kaggle, folder):
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n"}
    server.fail_next("files", ("http", 500, "oops"))
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0
    assert (folder / "outputs/kaggle/input/01_eda/submission.csv").read_bytes() == b"id,label\n1,2\n"


def test_killed_while_fetching_it_leaves_no_half(server, kaggle, folder, stopped):
    server.outputs[REFS["01_eda"]] = {"a.txt": b"a", "b.txt": b"b"}
    server.fail_next("files", ("stall",))
    stopped(lambda: not any(server.faults.values()), "01_eda")
    server.released.set()
    out = folder / "outputs/kaggle/input"
    assert [path.name for path in out.iterdir()] != ["01_eda"]
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert [path.name for path in out.iterdir()] == ["01_eda"]
    assert sorted(path.name for path in (out / "01_eda").glob("*.txt")) == ["a.txt", "b.txt"]
    assert pushed(server) == ["01_eda"]
