"""The pages: an executed notebook as one, and `index.html`, which leads with what is real and links to all."""

import csv
import html
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template
from urllib.parse import quote

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from flowerlib.config import MINOR, SMOKE_TEST, find_files, read_record, written_score
from flowerlib.series.notebooks import NOTEBOOKS, frame

TEMPLATE = Path(__file__).with_name("index.html")
STYLE = "<style>img { max-width: 100%; height: auto } .jp-OutputArea-output { overflow-x: auto }</style>"


def notebook_page(notebook: Path) -> str:
    """Return an executed notebook as a page that needs nothing from the network."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
    for cell in content.cells:
        if cell.cell_type == "markdown":  # links between notebooks lead to their pages
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.html)", cell.source)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    return exporter.from_notebook_node(content)[0].replace("</head>", f"{STYLE}</head>", 1)


def _is_progress(output: NotebookNode) -> bool:
    """Whether an output is a progress bar: what one leaves on stderr is no warning, and would look like one."""
    text = output.get("text", "x")
    return not text.strip() or (output.get("name") == "stderr" and bool(re.search(r"it/s|img/s|\d%\|", text)))


def index(out: Path) -> str:
    """Return the page that shows what lies in `out`: results, submission, next step, notebooks, smoke tests."""
    folders = [path.parent for path in find_files(out, "run.json") if path.parent.parent.name == "runs"]
    records = {folder.name: read_record(folder / "run.json") | {"folder": folder} for folder in folders}
    real = {name: record for name, record in records.items() if not record["smoke_test"]}
    executed = sorted(path for path in out.glob("[0-9]*.ipynb") if not _is_minor(path.stem))
    smoke = [path for path in executed if f"{path.stem}{SMOKE_TEST}" in records and path.stem not in real]
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        results=_results(out, real),
        next_step=_next_step(out, real, smoke),
        cards="\n".join(_card(path, path in smoke) for path in executed),
        smoke_tests=_smoke_tests(smoke),
    )


def _is_minor(name: str) -> bool:
    """Whether a notebook was executed beside one that is a result, or stopped with an error."""
    return bool(MINOR.fullmatch(name)) or name.endswith("-failed")


def _results(out: Path, real: dict[str, dict]) -> str:
    """The table of the runs that are results, the best first, with its figure and the submissions."""
    if not real:
        return "<p>No result yet: what has run so far were smoke tests or notebooks that train nothing.</p>"
    ranked = _ranked(real)
    rows = [_result_row(name, record) for name, record in ranked] + _averages(out)
    header = ("run", "macro F1 on val", "accuracy on val", "network", "minutes of training", "trained on")
    figures = "".join(_figure(out, name, record["folder"]) for name, record in ranked)
    names = sorted(path.name for path in out.glob("submission*.csv"))
    files = [f'<a class="button" href="{_address(name)}">{html.escape(name)}</a>' for name in names]
    return f"{_table(header, rows)}{figures}<p>{' '.join(files)}</p>"


def _ranked(real: dict[str, dict]) -> list[tuple[str, dict]]:
    """The runs, the best macro F1 first, those without a score last."""
    return sorted(real.items(), key=lambda item: -item[1].get("val_macro_f1", 0.0))


def _result_row(name: str, record: dict) -> tuple[str, ...]:
    minutes = sum(record["history"]["seconds"]) / 60
    data = record["data"]
    trained_on = f"{data['train']:,} images of {data['num_classes']} classes (data {data['fingerprint']})"
    scores = (written_score(record, metric) for metric in ("macro_f1", "accuracy"))
    return name, *scores, record["backbone"], f"{minutes:.1f}", trained_on


def _averages(out: Path) -> list[tuple[str, ...]]:
    """The rows of the ensemble, from `recap.csv`, where it averaged more than one run."""
    if not (out / "recap.csv").exists():
        return []
    with open(out / "recap.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    averages = [row for row in table if row["name"].endswith("average") and row["smoke_test"] == "False"]
    if len(table) - len(averages) < 2:
        return []
    return [
        (row["name"], f"{float(row['val_macro_f1']):.4f}", f"{float(row['val_accuracy']):.4f}", "", "", "")
        for row in averages
    ]


def _figure(out: Path, name: str, folder: Path) -> str:
    if not (folder / "curves.png").exists():
        return ""
    text, source = f"Accuracy, macro F1 and loss over the epochs of {name}", folder.relative_to(out).as_posix()
    text, source = html.escape(text), _address(f"{source}/curves.png")
    return f'<figure><img src="{source}" alt="{text}" loading="lazy"><figcaption>{text}</figcaption></figure>'


def _next_step(out: Path, real: dict[str, dict], smoke: list[Path]) -> str:
    """What one would do next, as one or two commands."""
    steps = []
    if smoke:
        steps.append(("Train in full what was only smoke-tested (TPU or GPU; 03 also on a CPU)", "run 03 --full"))
    recap = out / "recap.csv"
    written = recap.stat().st_mtime if recap.exists() else 0.0
    newer = [name for name, record in real.items() if (record["folder"] / "run.json").stat().st_mtime > written]
    if newer:
        what = f"Compare and average the runs again: {', '.join(newer)} came since" if written else "Compare the runs"
        steps.append((html.escape(what), "run 20"))
    if real:
        best = shlex.quote(str(_ranked(real)[0][1]["folder"]))
        steps.append(("Try a model on your own photographs", f"serve --model {best}"))
    items = "".join(f"<li>{text}: <code>flowerlib {html.escape(command)}</code></li>" for text, command in steps)
    return f"<ul>{items}</ul>"


def _card(executed: Path, is_smoke_test: bool) -> str:
    """A notebook as a link with its title, its goal and its first picture."""
    content = json.loads(executed.read_text("utf-8"))
    title = "".join(content["cells"][0]["source"]).splitlines()[0].lstrip("# ")
    goal = frame(executed.stem).get("goal", "") if (NOTEBOOKS / executed.name).exists() else ""
    picture = _picture(content)
    image = f'<img src="data:image/png;base64,{picture}" alt="" loading="lazy">' if picture else ""
    mark = '<span class="mark">smoke test</span>' if is_smoke_test else ""
    return (
        f'<a class="card" href="{_address(executed.stem)}.html">{image}<h3>{html.escape(title)}</h3>'
        f"<p>{html.escape(goal)} {mark}</p></a>"
    )


def _address(path: str) -> str:
    """A path as an address in the page."""
    return html.escape(quote(path))


def _picture(content: dict) -> str:
    """The first picture of an executed notebook, in base64; nothing where it has none."""
    outputs = (output for cell in content["cells"] for output in cell.get("outputs", ()))
    pictures = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return "".join(next(pictures, "")).strip()


def _smoke_tests(smoke: list[Path]) -> str:
    """The notebooks that were smoke-tested: that they passed, their seconds and memory, and no score."""
    if not smoke:
        return ""
    rows = []
    for path in smoke:
        measured = json.loads(path.read_text("utf-8"))["metadata"].get("flowerlib", {})
        memory = measured.get("peak_memory_bytes", 0) / 1e9
        rows.append((path.stem, "passed", f"{measured.get('seconds', 0):.0f}", f"{memory:.1f}"))
    table = _table(("notebook", "", "seconds", "peak memory in GB"), rows)
    return f"<h2>Smoke tests</h2><p>Real networks, a few tiny steps: they show that everything works.</p>{table}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
