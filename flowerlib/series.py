"""Run the notebooks, one after another, and show what they leave on one page."""

import csv
import html
import os
import re
import shutil
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from tqdm.utils import disp_trim

from flowerlib.config import (
    MINOR_SUFFIXES,
    PATH_VARIABLES,
    FlowersError,
    absolute,
    atomic_write,
    exclusive_lock,
    find_files,
    read_record,
    remove_stale_temporaries,
)

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CELLS = "{l_bar}{bar}| {n_fmt}/{total_fmt} cells"  # some take a second and one an hour: they do not tell how long
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[@-~]?")  # colours, movements; one may not have come whole yet


def names() -> list[str]:
    """Return the notebooks in the order in which they run: that of their numbers."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def run(notebooks: Iterable[str] = (), *, data: str | None = None, out: Path = Path("outputs")) -> None:
    """Execute notebooks in the folder `out`, one progress line each, and write `out/index.html`.

    Args:
        notebooks: their names; all of them, in order, unless given.
        data: the dataset's folder or address, instead of `FLOWERS_DATA`.
        out: gets the executed notebooks, their pages and what they write.

    Raises:
        FlowersError: an unknown notebook; another process runs into `out`; or a notebook stopped with one, of which
            nothing is written.
        RuntimeError: a notebook stopped with another error; it stays in `out` for reading.
    """
    chosen = [Path(name).stem for name in notebooks] or names()
    if not chosen:
        raise FlowersError(f"no notebooks in `{NOTEBOOKS}`; work in a clone, where `make setup` installs flowerlib")
    if unknown := [name for name in chosen if name not in names()]:
        raise FlowersError(f"no notebook {unknown[0]!r}; there are {', '.join(names())}")
    _set_places(data)
    existed = out.exists()
    try:
        with exclusive_lock(out / ".lock", partial(_refuse_second, out)):
            _remove_leftovers(out)
            for name in chosen:
                _run_one(name, out)
            with atomic_write(out / "index.html") as temporary:
                temporary.write_text(index(out))
    finally:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    print(f"All of it on one page: {out / 'index.html'}")


def _refuse_second(out: Path, process: str) -> None:
    raise FlowersError(f"process {process} runs notebooks into `{out}`; let it end, or name another folder with --out")


def _remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed had half written, here and in the folders of the runs."""
    for folder in (out, *out.glob("runs/*/")):
        remove_stale_temporaries(folder)


def _set_places(data: str | None) -> None:
    """Hand the places on to the notebooks, which run in another folder."""
    if data:
        os.environ["FLOWERS_DATA"] = data
    os.environ |= {variable: absolute(place) for variable in PATH_VARIABLES if (place := os.environ.get(variable))}


class _Printed:
    """What a notebook prints, as a file: on a terminal its last line stands above the bar that counts cells."""

    def __init__(self, shown: tqdm) -> None:
        self.shown, self.text = shown, ""

    def write(self, text: str) -> None:
        """Show the last line that shows something; seldom enough for a terminal, as `shown` goes by `mininterval`."""
        self.text = (self.text + text)[-1000:]
        lines = ("".join(filter(str.isprintable, part)) for part in re.split(r"[\r\n\b]", ESCAPE.sub("", self.text)))
        last = ([line.strip() for line in lines if line.strip()] or [""])[-1]
        self.shown.set_description_str(disp_trim(last, shutil.get_terminal_size().columns - 1), refresh=False)
        self.shown.update()

    def flush(self) -> None:
        """Nothing: what is due is shown."""


def _run_one(name: str, out: Path) -> None:
    began = time.monotonic()
    executed = out / f"{name}.ipynb"
    shown = tqdm(bar_format="{desc}", miniters=1, position=0, leave=False, disable=None)
    printed = _Printed(shown)
    with atomic_write(executed) as temporary, shown:
        try:
            papermill.execute_notebook(
                NOTEBOOKS / f"{name}.ipynb",
                temporary,
                cwd=out,
                kernel_name="python3",
                progress_bar={"desc": name, "position": 1, "leave": False, "disable": None, "bar_format": CELLS},
                stdout_file=printed,
                stderr_file=printed,
                coalesce_streams=True,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        except PapermillExecutionError as error:
            if error.ename == "FlowersError":
                raise FlowersError(error.evalue) from None
            temporary.replace(executed)
            raise RuntimeError(f"{name} stopped: {error.ename}: {error.evalue}; read {executed}") from None
    with atomic_write(executed.with_suffix(".html")) as temporary:
        temporary.write_text(_page(executed))
    tqdm.write(f"{name:<20} {time.monotonic() - began:5.0f} s{_score(_newest(out, name))}")


def _newest(out: Path, name: str) -> Path:
    """The record that was written last of the run, its smoke test, or what was stopped of it; maybe there is none."""
    ours = [name, *(f"{name}{kind}" for kind in MINOR_SUFFIXES)]
    records = [path for path in out.glob(f"runs/{name}*/run.json") if path.parent.name in ours]
    return max(records, key=lambda path: path.stat().st_mtime, default=out / "runs" / name / "run.json")


def _score(record: Path) -> str:
    """What a run's record says of its success, in a few words; nothing where there is no record."""
    if not record.exists():
        return ""
    run = read_record(record)
    return "   smoke test" if run["smoke_test"] else f"   macro F1 on val {run['val_macro_f1']:.4f}"


def _page(notebook: Path) -> str:
    """The notebook as a page that needs nothing from the network."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if "outputs" in cell:  # a progress bar that has removed itself leaves an empty one
            cell.outputs = [output for output in cell.outputs if output.get("text", "something").strip()]
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    return exporter.from_notebook_node(content)[0]


def index(out: Path) -> str:
    """Return the page that shows what lies in `out`: the recap, each run's curves, links to the notebooks."""
    notebooks = [f'<li><a href="{path.name}">{path.stem}</a></li>' for path in sorted(out.glob("[0-9]*.html"))]
    curves = [
        f'<figure><img src="{path.relative_to(out).as_posix()}" alt="Accuracy and loss over the epochs of '
        f'{path.parent.name}" loading="lazy"><figcaption>{path.parent.name}</figcaption></figure>'
        for path in find_files(out, "curves.png")
    ]
    files = sorted(path.name for path in (*out.glob("submission*.csv"), *out.glob("recap.csv")))
    return PAGE.format(
        recap=_recap(out),
        notebooks="\n".join(notebooks),
        curves="\n".join(curves),
        files=", ".join(f'<a href="{name}">{name}</a>' for name in files),
    )


def _recap(out: Path) -> str:
    records = sorted(out.glob("runs/*/run.json"))
    if not (out / "recap.csv").exists():
        rows = [[path.parent.name, _score(path)] for path in records]
        hint = "<p>There is no recap yet: <code>flowerlib run 20_ensemble</code> makes it.</p>"
        return hint + _table(["run", "result"], rows)
    with open(out / "recap.csv", newline="") as file:
        header, *rows = csv.reader(file)
    made = (out / "recap.csv").stat().st_mtime
    old = [path.parent.name for path in records if path.stat().st_mtime > made]
    note = f"<p>Older than {', '.join(old)}: run 20_ensemble again.</p>" if old else ""
    return note + _table(header, rows) + '\n<img src="recap.png" alt="Macro F1 and seconds an epoch of every run">'


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _cell(text: str) -> str:
    """Long fractions to four digits, the rest as it is."""
    return f"{float(text):.4f}" if re.fullmatch(r"\d+\.\d{5,}", text) else html.escape(text)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flowerlib: the series</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1, h2 {{ line-height: 1.2; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 1.5rem 0; }}
figcaption {{ color: #555; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
<h1>The series</h1>
<h2>Recap</h2>
{recap}
<p>{files}</p>
<h2>Notebooks</h2>
<ul>
{notebooks}
</ul>
<h2>Curves</h2>
{curves}
</html>
"""
