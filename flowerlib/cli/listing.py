"""`flowerlib list`: the notebooks, the networks, the runs that are there."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from flowerlib import series
from flowerlib.config import read_record, written_score
from flowerlib.series.notebooks import frame


def show(out: Path) -> None:
    """Print the notebooks with device and time, the networks with size and weights, and the runs in `out`."""
    console = Console(highlight=False, markup=False, emoji=False)  # names are text, such as [red]rose[/]
    console.print(_notebooks(), _networks(), *([_runs(out)] if any(out.glob("runs/*/run.json")) else []), sep="\n")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _notebooks() -> Table:
    table = _table("Notebooks", "name", "goal", "device", "time")
    for name in series.names():
        about = frame(name)
        table.add_row(name, *(about.get(key, "") for key in ("goal", "device", "time")))
    return table


def _networks() -> Table:
    from flowerlib.networks import backbones, weights

    table = _table("Networks", "name", "million parameters", "native size", "weights")
    for name, row in backbones.BACKBONES.items():
        found = weights.find(row.weights)
        table.add_row(
            name, f"{row.parameters / 1e6:.1f}", f"{row.native_size} px", "here" if found else "to be downloaded"
        )
    return table


def _runs(out: Path) -> Table:
    table = _table(f"Runs in {out}", "name", "macro F1 on val", "epochs", "network")
    for path in sorted(out.glob("runs/*/run.json")):
        record = read_record(path)
        score = "smoke test" if record["smoke_test"] else written_score(record)
        table.add_row(path.parent.name, score, str(record["epochs"]), record["backbone"])
    return table
