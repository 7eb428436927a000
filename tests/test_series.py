import io
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from tqdm import tqdm

from flowerlib import series
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Return `write(name, code, ...)`, which makes a notebook of the series; the folder begins empty."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(series, "NOTEBOOKS", folder)

    def write(name, *code):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
        nbformat.write(notebook, folder / f"{name}.ipynb")

    return write


CURVES = (
    "import pathlib, base64\n"
    "folder = pathlib.Path('runs/00_a')\n"
    "folder.mkdir(parents=True)\n"
    "(folder / 'curves.png').write_bytes(b'png')"
)


def test_notebooks_run_in_the_order_of_their_numbers_in_the_output_folder(notebooks, tmp_path, capsys):
    notebooks("10_b", "print(open('trace').read())")
    notebooks("00_a", "open('trace', 'w').write('from 00_a')", CURVES)
    out = tmp_path / "out"
    series.run(out=out)
    executed = nbformat.read(out / "10_b.ipynb", as_version=4)
    assert executed.cells[0].outputs[0]["text"] == "from 00_a\n"
    assert re.findall(r"^(\w+) +\d+ s$", capsys.readouterr().out, re.MULTILINE) == ["00_a", "10_b"]

    page = (out / "index.html").read_text()
    for link in ('href="00_a.html"', 'href="10_b.html"', 'src="runs/00_a/curves.png"'):
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
    series.run(out=tmp_path / "one")
    assert "a third" not in capsys.readouterr().err  # where it goes into a file
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    series.run(out=tmp_path / "two")
    assert "\ra third" in terminal.getvalue()
    assert "extracting: 7%" in terminal.getvalue()


@pytest.fixture
def shown(monkeypatch):
    """Return `shown(text)`: what a terminal of 80 columns shows after a notebook has printed so much more."""
    monkeypatch.setenv("COLUMNS", "80")
    printed = series._Printed(tqdm(bar_format="{desc}", miniters=1, mininterval=0, file=(terminal := Terminal())))

    def write(text):
        printed.write(text)
        printed.flush()
        return terminal.getvalue().rpartition("\r")[2].rstrip()

    return write


def test_keras_own_bar_is_shown_to_the_epochs_end(shown, monkeypatch):
    assert shown("Epoch 12/24\n") == "Epoch 12/24"
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    bar = keras.utils.Progbar(134, interval=0)
    for step in range(1, 134):
        bar.update(step, [("accuracy", 0.5), ("loss", 1.0)], finalize=False)
        assert re.match(rf"{step}/134 ━+ \d+s .*step - accuracy: 0.5000", shown(terminal.getvalue()))
        terminal.seek(terminal.truncate(0))


def test_the_last_line_is_shown_whatever_came_before(shown):
    pieces = {
        "\n": "",  # nothing yet
        "\rextracting train:  7%\r" + 40 * " " + "\r": "extracting train:  7%",  # a bar that has removed itself
        "\nshort": "short",
        "er\x1b[3": "shorter",  # the rest of the colour comes in the next piece
        "1m\n\x1b[0m\n": "shorter",
        "\r" + 60 * "漢": 39 * "漢",  # two columns each
        "\n" + 100 * "x": 79 * "x",
        "\n\x1bc\x07 bell": "c bell",  # nothing reaches the terminal but letters
    }
    for piece, line in pieces.items():
        assert shown(piece) == line


def test_a_talkative_notebook_is_shown_ten_times_a_second():
    began, terminal = time.monotonic(), Terminal()
    printed = series._Printed(tqdm(bar_format="{desc}", miniters=1, mininterval=0.1, file=terminal))
    for number in range(20_000):
        printed.write(f"{number}\n")
    assert terminal.getvalue().count("\r") <= 2 + 10 * (time.monotonic() - began)
    time.sleep(0.1)
    printed.write("the end")
    assert "the end" in terminal.getvalue()


def test_a_second_call_into_the_same_folder_is_refused_with_the_first_ones_process(notebooks, tmp_path):
    notebooks("00_a", "import time; time.sleep(600)")
    out = tmp_path / "out"
    first = (
        "import pathlib, sys; from flowerlib import series\n"
        "series.NOTEBOOKS = pathlib.Path(sys.argv[1]); series.run(out=pathlib.Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", first, str(series.NOTEBOOKS), str(out)]) as process:
        while not list(out.glob(".flowerlib-*")):
            time.sleep(0.05)
        with pytest.raises(FlowersError, match=f"process {process.pid} runs notebooks into `{out}`; .* with --out"):
            series.run(out=out)
        process.kill()
    assert list(out.glob(".flowerlib-*"))  # it was killed
    notebooks("00_a", "1")
    series.run(out=out)
    assert {path.name for path in out.iterdir()} == {"00_a.ipynb", "00_a.html", "index.html"}


def test_the_progress_line_tells_of_the_record_that_this_call_left(tmp_path):
    assert series._score(series._newest(tmp_path, "10_b")) == ""
    for age, folder in enumerate(("10_b", "10_b-unfinished", "10_b-smoke-test", "10_b-other")):
        record = tmp_path / "runs" / folder / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"smoke_test": folder.endswith("smoke-test"), "val_macro_f1": 0.5}))
        os.utime(record, (age, age))
    assert series._score(series._newest(tmp_path, "10_b")) == "   smoke test"
    for name in ("10_b-unfinished", "10_b"):
        os.utime(tmp_path / "runs" / name / "run.json", (9, 9))
        assert series._newest(tmp_path, "10_b").parent.name == name
        os.utime(tmp_path / "runs" / name / "run.json", (0, 0))
    assert series._score(tmp_path / "runs/10_b/run.json") == "   macro F1 on val 0.5000"


def test_a_recap_is_shown_as_a_table_and_escaped(tmp_path):
    (tmp_path / "recap.csv").write_text('name,val_macro_f1\n"a <b>, c",0.123456\n')
    page = series.index(tmp_path)
    assert "<th>val_macro_f1</th>" in page
    assert "<td>a &lt;b&gt;, c</td><td>0.1235</td>" in page


def test_a_recap_older_than_a_run_says_so(tmp_path):
    (tmp_path / "recap.csv").write_text("name\n")
    for name, age in (("00_old", -9), ("10_new", 9)):
        record = tmp_path / f"runs/{name}/run.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
        made = (tmp_path / "recap.csv").stat().st_mtime
        os.utime(record, (made + age, made + age))
    assert "Older than 10_new: run 20_ensemble again" in series.index(tmp_path)


def test_without_a_recap_the_runs_results_stand_there(tmp_path):
    for name, smoke_test in (("00_a", False), ("10_b", True)):
        (tmp_path / f"runs/{name}").mkdir(parents=True)
        record = {"smoke_test": smoke_test, "val_macro_f1": 0.91234}
        (tmp_path / f"runs/{name}/run.json").write_text(json.dumps(record))
    page = series.index(tmp_path)
    assert "macro F1 on val 0.9123" in page
    assert "smoke test" in page
    assert "flowerlib run 20_ensemble" in page


def test_an_unknown_notebook_is_named_and_nothing_is_made(notebooks, tmp_path):
    notebooks("00_a", "1")
    with pytest.raises(FlowersError, match=r"no notebook '00_b'; there are 00_a"):
        series.run(["00_b"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_user_can_put_right_comes_through_as_one_line_and_leaves_nothing(notebooks, tmp_path):
    notebooks("00_a", "from flowerlib.config import FlowersError\nraise FlowersError('no flowers; plant some')")
    with pytest.raises(FlowersError, match=r"^no flowers; plant some$"):
        series.run(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_breaks_stays_for_reading(notebooks, tmp_path):
    notebooks("00_a", "print('so far')\n1 / 0")
    out = tmp_path / "out"
    with pytest.raises(
        RuntimeError, match=rf"00_a stopped: ZeroDivisionError: division by zero; read {out}/00_a.ipynb"
    ):
        series.run(out=out)
    assert "so far" in (out / "00_a.ipynb").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["00_a.ipynb"]


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
    series.run(data=data, out=tmp_path / "out")
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
