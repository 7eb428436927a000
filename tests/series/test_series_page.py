import json
import os
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pytest

from flowerlib.series import page

REAL = {
    "smoke_test": False, "val_macro_f1": 0.91234, "val_accuracy": 0.9, "backbone": "EfficientNetLite0",
    "history": {"seconds": [30.0, 60.0]}, "data": {"train": 900, "num_classes": 21, "fingerprint": "abc"},
}  # fmt: skip


@pytest.fixture
def out(tmp_path):
    """Return `write(name, **changes)`, which makes a run and its executed notebook; the folder is its attribute."""

    def write(name, notebook=None, **changes):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(REAL | changes))
        (folder / "curves.png").write_bytes(b"png")
        cells = [nbformat.v4.new_markdown_cell(f"# Title <of> {name}\nSee [the next](10_b.ipynb).")]
        executed = nbformat.v4.new_notebook(cells=cells)
        executed.metadata["flowerlib"] = {"seconds": 61.4, "peak_memory_bytes": 2_500_000_000}
        nbformat.write(executed, tmp_path / f"{notebook or name}.ipynb")

    write.folder = tmp_path
    return write


def test_the_best_result_comes_first_with_its_figure(out):
    out("00_a")
    out("03_b", val_macro_f1=0.95)
    found = page.index(out.folder)
    assert re.findall(r"<tr><td>(\w+)</td><td>([\d.]+)</td>", found) == [("03_b", "0.9500"), ("00_a", "0.9123")]
    assert "<td>1.5</td>" in found  # minutes: 30 s and 60 s
    assert re.findall(r'src="(runs/[^"]+)"', found) == ["runs/03_b/curves.png", "runs/00_a/curves.png"]
    assert f"flowerlib serve --model {out.folder}/runs/03_b" in found


def test_a_smoke_test_is_shown_apart_without_score_and_figure(out):
    out("00_a")
    out("10_b-smoke-test", "10_b", smoke_test=True, val_macro_f1=0.0276)
    found = page.index(out.folder)
    assert "0.0276" not in found
    assert "10_b-smoke-test/curves.png" not in found
    assert "<td>10_b</td><td>passed</td><td>61</td><td>2.5</td>" in found
    assert found.index("0.9123") < found.index("passed")


def test_titles_are_no_markup_and_every_notebook_is_linked(out):
    out("00_a")
    found = page.index(out.folder)
    assert "<h3>Title &lt;of&gt; 00_a</h3>" in found
    assert 'href="00_a.html"' in found
    assert not re.search(r"""(src|href)=["'](https?:)?//""", found)  # opened from disk, without network


def test_links_between_notebooks_lead_to_their_pages(out):
    out("00_a")
    assert 'href="10_b.html"' in page.notebook_page(out.folder / "00_a.ipynb")


def test_progress_bars_leave_no_red_box(out, tmp_path):
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="\rextracting train:  50%|#####     | 1/2 [00:01<00:01]"),
        nbformat.v4.new_output("stream", name="stderr", text="WARNING: read me"),
        nbformat.v4.new_output("stream", name="stdout", text="done"),
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_x.ipynb")
    found = page.notebook_page(tmp_path / "00_x.ipynb")
    assert "extracting" not in found
    assert "read me" in found
    assert "done" in found


@pytest.mark.parametrize("age", [-9, 9])
def test_a_run_that_came_after_the_recap_asks_for_another(out, age):
    (out.folder / "recap.csv").write_text("name,smoke_test\n")
    out("00_a")
    record = out.folder / "runs/00_a/run.json"
    written = (out.folder / "recap.csv").stat().st_mtime
    os.utime(record, (written + age, written + age))
    assert ("00_a came since" in page.index(out.folder)) == (age > 0)


def test_averages_of_several_runs_are_results_too(out):
    out("00_a")
    out("03_b")
    rows = ["name,smoke_test,val_macro_f1,val_accuracy", "00_a,False,0.9,0.9", "03_b,False,0.9,0.9"]
    rows += ["equal average,False,0.94,0.95"]
    (out.folder / "recap.csv").write_text("\n".join(rows))
    assert "<td>equal average</td><td>0.9400</td>" in page.index(out.folder)


class Parser(HTMLParser):
    """The tags of a page with the names of their attributes, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, [key for key, _ in attributes]))
        self.links += [unquote(value) for key, value in attributes if key in ("href", "src")]


@pytest.mark.parametrize("name", ["<b>rose<%b>", 'a" onerror="x', "a&b", "a b#c?d", "Ba$$in", "${results}", "牡丹"])
def test_the_name_of_a_run_is_no_markup(out, name):
    out("00_plain")
    (out.folder / "submission_plain.csv").touch()
    plain = Parser(page.index(out.folder))
    shutil.rmtree(out.folder / "runs")
    for left in (*out.folder.glob("*.ipynb"), *out.folder.glob("*.csv")):
        left.unlink()
    out(f"00_{name}")
    (out.folder / f"submission_{name}.csv").touch()
    found = Parser(page.index(out.folder))
    assert found.tags == plain.tags
    assert {f"runs/00_{name}/curves.png", f"submission_{name}.csv", f"00_{name}.html"} <= set(found.links)
