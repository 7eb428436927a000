"""Outputs are downloaded whole or not at all."""

from kaggle_helpers import POLL, REFS, pushed, read_all_files


def test_output_of_several_pages_comes_whole(server, kaggle, folder):
    files = {f"runs/{number}/run.json": bytes([number]) * number for number in range(25)}
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
    server.outputs[REFS["01_eda"]] = {"runs/a/run.json": b"a", "runs/a/curves.png": b"b"}
    server.fail_next("files", ("stall",))
    stopped(lambda: not any(server.faults.values()), "01_eda")
    server.released.set()
    out = folder / "outputs/kaggle/input"
    assert [path.name for path in out.iterdir()] != ["01_eda"]
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert [path.name for path in out.iterdir()] == ["01_eda"]
    assert sorted(path.name for path in (out / "01_eda/runs/a").iterdir()) == ["curves.png", "run.json"]
    assert pushed(server) == ["01_eda"]


SMALL = {"runs/10_densenet201/run.json": b"{}", "submission.csv": b"id,label\n"}  # no predictions: no recap is made
LARGE = {
    "runs/10_densenet201/model/model.keras": b"a model",
    "runs/10_densenet201/resume.npz": b"a checkpoint",
    "runs/10_densenet201/per_class.csv": b"a table",
    "features/0.npy": b"features",
}


def test_models_are_fetched_where_they_are_asked_for(server, run_here, tmp_path):
    folder, needed = tmp_path / "out/input/10_densenet201", SMALL
    server.outputs[REFS["10_densenet201"]] = needed | LARGE

    def fetched():
        files = {name: content for name, content in read_all_files(folder).items() if not name.endswith(".log")}
        return files.keys() - {".version"}

    run_here("10_densenet201")
    assert fetched() == needed.keys()
    run_here("10_densenet201", models=True)
    assert fetched() == needed.keys() | LARGE.keys()
    before = len(server.requests)
    run_here("10_densenet201")  # what is there stays
    run_here("10_densenet201", models=True)
    assert fetched() == needed.keys() | LARGE.keys()
    assert "ListKernelSessionOutput" not in {method for method, _ in server.requests[before:]}
    assert pushed(server) == ["10_densenet201"]


def test_a_run_keeps_what_output_has_fetched(server, run_here, kaggle, tmp_path):
    server.outputs[REFS["10_densenet201"]] = SMALL | LARGE
    run_here("10_densenet201")
    assert kaggle("output", "10", "--out", tmp_path / "out").returncode == 0
    run_here("10_densenet201")
    model = tmp_path / "out/input/10_densenet201/runs/10_densenet201/model/model.keras"
    assert model.read_bytes() == b"a model"
