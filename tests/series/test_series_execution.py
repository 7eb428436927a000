import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext

import nbformat
import pytest

from flowerlib import series
from flowerlib.config import FlowersError
from flowerlib.series import execution


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Return `write(name, code, ...)`, which makes a notebook of the series; the folder begins empty."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(series.notebooks, "NOTEBOOKS", folder)
    monkeypatch.setattr(series.page, "NOTEBOOKS", folder)

    def write(name, *code, parameters=None):
        notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
        notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in code]
        if parameters:
            cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
            notebook.cells.insert(0, cell)
        nbformat.write(notebook, folder / f"{name}.ipynb")

    return write


def test_notebooks_run_in_the_order_of_their_numbers_in_the_output_folder(notebooks, tmp_path, capsys):
    notebooks("10_b", "print(open('trace').read())")
    notebooks("00_a", "open('trace', 'w').write('from 00_a')")
    out = tmp_path / "out"
    execution.run(out=out, jobs=1)
    executed = nbformat.read(out / "10_b.ipynb", as_version=4)
    assert executed.cells[0].outputs[0]["text"] == "from 00_a\n"
    assert re.findall(r"^(\w+) +\d+ s$", capsys.readouterr().out, re.MULTILINE) == ["00_a", "10_b"]

    page = (out / "index.html").read_text()
    for link in ('href="00_a.html"', 'href="10_b.html"'):
        assert link in page
    for html in out.glob("*.html"):  # opened from disk, without network
        assert not re.search(r"""(src|href)=["'](https?:)?//""", html.read_text()), html.name


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_one_sees_how_far_a_notebook_is(notebooks, tmp_path, monkeypatch, capsys):
    notebooks(
        "00_a",
        "import time; print('a third'); time.sleep(1)",
        "import sys; print('\\rextracting: 7%', end='\\r', file=sys.stderr); time.sleep(1)",
    )
    execution.run(out=tmp_path / "one", jobs=1)
    assert "a third" not in capsys.readouterr().err  # where it goes into a file
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    execution.run(out=tmp_path / "two", jobs=1)
    assert "\ra third" in terminal.getvalue()
    assert "extracting: 7%" in terminal.getvalue()


def test_a_second_call_into_the_same_folder_is_refused_with_the_first_ones_process(notebooks, tmp_path):
    notebooks("00_a", "import time; time.sleep(600)")
    out = tmp_path / "out"
    first = (
        "import pathlib, sys; from flowerlib.series import execution, notebooks\n"
        "notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1]); execution.run(out=pathlib.Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", first, str(series.notebooks.NOTEBOOKS), str(out)]) as process:
        while not list(out.glob(".flowerlib-*")):
            time.sleep(0.05)
        with pytest.raises(FlowersError, match=f"process {process.pid} runs notebooks into `{out}`; .* with --out"):
            execution.run(out=out)
        process.kill()
    assert list(out.glob(".flowerlib-*"))  # it was killed
    notebooks("00_a", "1")
    execution.run(out=out)
    assert {path.name for path in out.iterdir()} == {"00_a.ipynb", "00_a.html", "index.html"}


def test_the_progress_line_tells_of_the_record_that_this_call_left(tmp_path):
    assert execution.score(execution.newest_record(tmp_path, "10_b")) == ""
    for age, folder in enumerate(("10_b", "10_b-unfinished", "10_b-smoke-test", "10_b-other")):
        record = tmp_path / "runs" / folder / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"smoke_test": folder.endswith("smoke-test"), "val_macro_f1": 0.5}))
        os.utime(record, (age, age))
    assert execution.score(execution.newest_record(tmp_path, "10_b")) == "   smoke test"
    for name in ("10_b-unfinished", "10_b"):
        os.utime(tmp_path / "runs" / name / "run.json", (9, 9))
        assert execution.newest_record(tmp_path, "10_b").parent.name == name
        os.utime(tmp_path / "runs" / name / "run.json", (0, 0))
    assert execution.score(tmp_path / "runs/10_b/run.json") == "   macro F1 on val 0.5000"


def test_an_unknown_notebook_is_named_and_nothing_is_made(notebooks, tmp_path):
    notebooks("00_a", "1")
    with pytest.raises(FlowersError, match=r"no notebook '00_b'; did you mean 00_a\? There are 00_a"):
        execution.run(["00_b"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_user_can_put_right_comes_through_as_one_line_and_leaves_nothing(notebooks, tmp_path):
    notebooks("00_a", "from flowerlib.config import FlowersError\nraise FlowersError('no flowers; plant some')")
    with pytest.raises(FlowersError, match=r"^no flowers; plant some$"):
        execution.run(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_breaks_stays_for_reading(notebooks, tmp_path):
    notebooks("00_a", "print('so far')\n1 / 0")
    out = tmp_path / "out"
    with pytest.raises(
        RuntimeError, match=rf"00_a stopped: ZeroDivisionError: division by zero; read {out}/00_a-failed.ipynb"
    ):
        execution.run(out=out)
    assert "so far" in (out / "00_a-failed.ipynb").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["00_a-failed.ipynb"]


def leave_run(name, smoke_test=False):
    """A cell that leaves the record of a run, and shows its name."""
    record = {"name": name, "smoke_test": smoke_test, "val_macro_f1": 0.5, "val_accuracy": 0.5, "backbone": "b"}
    record |= {"history": {"seconds": [1.0]}, "data": {"train": 9, "num_classes": 3, "fingerprint": "f"}}
    return (
        "import json, os\n"
        f"os.makedirs('runs/{name}', exist_ok=True)\n"
        f"open('runs/{name}/run.json', 'w').write(json.dumps({record}))\n"
        f"print('ran as {name}')"
    )


def test_neither_a_smoke_test_nor_an_error_replaces_the_notebook_of_a_whole_run(notebooks, tmp_path):
    out, shown = tmp_path / "out", {}
    for cell in (leave_run("10_a"), leave_run("10_a-smoke-test", True), "1 / 0"):
        notebooks("10_a", cell)
        with pytest.raises(RuntimeError) if cell == "1 / 0" else nullcontext():
            execution.run(out=out)
    for path in out.glob("10_a*.ipynb"):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        shown[path.stem] = [output.get("text") for output in cells[0].outputs]
    assert shown == {
        "10_a": ["ran as 10_a\n"],
        "10_a-smoke-test": ["ran as 10_a-smoke-test\n"],
        "10_a-failed": [None],
    }
    assert "ran as 10_a\n" in (out / "10_a.html").read_text()
    assert (out / "index.html").read_text().count('class="card"') == 1
    notebooks("10_a", leave_run("10_a"))
    execution.run(out=out)
    assert not (out / "10_a-failed.ipynb").exists()


@pytest.mark.parametrize("data", [None, "flowers", "~/flowers"])
def test_a_place_is_for_the_notebooks_where_it_is_for_the_caller(notebooks, tmp_path, monkeypatch, data):
    """They run in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    given = {
        "FLOWERS_DATA": "../elsewhere",
        "FLOWERS_KAGGLE": "kg",
        "FLOWERS_WEIGHTS": "gs://bucket/weights",
        "KERAS_HOME": "~/keras",
        "XDG_CACHE_HOME": "cache",
        "JAX_COMPILATION_CACHE_DIR": "./xla",
    }
    for name, place in given.items():
        monkeypatch.setenv(name, place)
    notebooks("00_a", f"import json, os; print(json.dumps([os.environ[name] for name in {list(given)}]))")
    execution.run(data=data, out=tmp_path / "out")
    executed = nbformat.read(tmp_path / "out/00_a.ipynb", as_version=4)
    there = {
        None: f"{tmp_path.parent}/elsewhere",
        "flowers": f"{tmp_path}/flowers",
        "~/flowers": f"{tmp_path}/home/flowers",
    }
    assert json.loads(executed.cells[0].outputs[0]["text"]) == [
        there[data], f"{tmp_path}/kg", "gs://bucket/weights", f"{tmp_path}/home/keras", f"{tmp_path}/cache",
        f"{tmp_path}/xla",
    ]  # fmt: skip


def test_notebooks_run_side_by_side_and_the_one_that_reads_them_afterwards(notebooks, tmp_path, capfd):
    """Each waits until the other has begun: one after the other, they would wait for ever."""
    meet = (
        "import pathlib, time\npathlib.Path('{0}').touch()\n"
        "other, end = pathlib.Path('{1}'), time.monotonic() + 60\n"
        "while not other.exists() and time.monotonic() < end: time.sleep(0.05)\n"
        "assert other.exists()\ntime.sleep({2})\npathlib.Path('{0}-ended').touch()"
    )
    notebooks("00_a", meet.format("a", "b", 0.5))
    notebooks("10_b", meet.format("b", "a", 0))
    notebooks(
        "20_ensemble", "import pathlib; assert all(map(pathlib.Path.exists, map(pathlib.Path, ['a-ended', 'b-ended'])))"
    )
    execution.run(out=tmp_path / "out", jobs=2)
    lines = re.findall(r"^(\w+) +\d+ s$", capfd.readouterr().out, re.MULTILINE)
    assert (sorted(lines[:2]), lines[2:]) == (["00_a", "10_b"], ["20_ensemble"])


def test_of_two_side_by_side_the_one_that_breaks_is_named(notebooks, tmp_path):
    notebooks("00_a", "1 / 0")
    notebooks("10_b", "1")
    with pytest.raises(RuntimeError, match="00_a stopped: ZeroDivisionError"):
        execution.run(out=tmp_path / "out", jobs=2)


def test_several_values_arrive_as_values(notebooks, tmp_path):
    notebooks("00_a", "print(sum(SIZES))", parameters="SIZES = (192,)")
    execution.run(["a"], out=tmp_path / "out", jobs=1, parameters=["SIZES=192,256"])
    [*_, last] = nbformat.read(tmp_path / "out/00_a.ipynb", as_version=4).cells
    assert last.outputs[0]["text"] == "448\n"


def test_parameters_and_a_name_make_a_variant_beside_the_plain_one(notebooks, tmp_path):
    notebooks("00_a", "print(NAME, EPOCHS)", parameters="NAME = '00_a'  # of the run\nEPOCHS = 3")
    out = tmp_path / "out"
    execution.run(["00"], out=out, jobs=1)
    execution.run(["a"], out=out, jobs=1, parameters=["EPOCHS=5"], name="longer")
    printed = {}
    for name in ("00_a", "longer"):
        cells = nbformat.read(out / f"{name}.ipynb", as_version=4).cells
        printed[name] = cells[-1].outputs[0]["text"]
    assert printed == {"00_a": "00_a 3\n", "longer": "longer 5\n"}


def test_seconds_and_memory_are_kept_with_the_notebook(notebooks, tmp_path):
    notebooks("00_a", "import time, numpy; held = numpy.ones(60_000_000); time.sleep(1.5)")  # 480 MB
    execution.run(out=tmp_path / "out", jobs=1)
    measured = nbformat.read(tmp_path / "out/00_a.ipynb", as_version=4).metadata["flowerlib"]
    assert measured["seconds"] > 1.5
    assert 480e6 < measured["peak_memory_bytes"] < 900e6


@pytest.mark.parametrize(
    "spec",
    [
        '{"argv": ["/nowhere/python", "-f", "{connection_file}"], "display_name": "x", "language": "python"}',
        '{"argv": ["false"], "display_name": "x", "language": "python"}',
        '{"argv": [], "display_name": "x", "language": "julia"}',
        "{",
        None,
    ],
)
def test_a_broken_kernel_spec_does_not_matter_as_the_own_python_is_the_kernel(spec, notebooks, tmp_path, monkeypatch):
    notebooks("00_a", "import sys; print(sys.executable)")
    folder = tmp_path / "jupyter/kernels/python3"
    folder.mkdir(parents=True)
    if spec:
        (folder / "kernel.json").write_text(spec, encoding="utf-8")
    kept = os.environ.get("JUPYTER_PATH", "")
    monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path / 'jupyter'}{os.pathsep}{kept}")
    execution.run(out=tmp_path / "out", jobs=1)
    executed = nbformat.read(tmp_path / "out/00_a.ipynb", as_version=4)
    assert executed.cells[0].outputs[0]["text"] == f"{sys.executable}\n"


@pytest.mark.parametrize("where", ["out", "data"])
def test_a_place_whose_name_is_no_text_is_named(where, notebooks, tmp_path):
    notebooks("00_a", "1")
    places = {"out": tmp_path / "out"} | {where: tmp_path / os.fsdecode(b"caf\xe9")}
    with pytest.raises(FlowersError, match=r"caf\\xe9` is no text in this locale.*; rename it, or set LC_ALL"):
        execution.run(**{key: str(value) if key == "data" else value for key, value in places.items()})
    assert not (tmp_path / "out").exists()
