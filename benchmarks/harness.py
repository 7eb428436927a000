"""What every benchmark shares: turns, so that a machine that drifts drifts for all; the report; the table."""

import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from flowerlib.config import atomic_write
from flowerlib.data import Flowers

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results: written by python -m benchmarks -->", "<!-- end of results -->"
PARTS = Path(__file__).parents[1] / "build/benchmarks"
PACKAGES = ("tensorflow", "keras", "jax", "torch", "simplejpeg", "albumentations", "scikit-learn", "numpy")
Curve = list[tuple[float, float]]  # seconds, macro F1


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        value: the median, in `unit`; or the ratio, where the unit is `x`; None for a goal that was never reached.
        unit: such as images/s, s, macro F1, x.
        target: what it should be at least (`>=`) or at most (`<=`), as a sign and a number; empty where there is none.
    """

    what: str
    value: float | None
    unit: str
    target: str = ""

    @property
    def met(self) -> str:
        """`yes`, `no`, or nothing where there is no target."""
        if not self.target:
            return ""
        if self.value is None:
            return "no"
        sign, bound = self.target.split()
        return "yes" if (self.value >= float(bound) if sign == ">=" else self.value <= float(bound)) else "no"


@dataclass
class Report:
    """What a benchmark found: its rows, whatever raw numbers are worth keeping, and a figure where one says more."""

    name: str
    rows: list[Row]
    raw: dict = field(default_factory=dict)
    figure: Figure | None = None

    def save(self, folder: Path = RESULTS) -> None:
        """Write `<name>.json` and, where there is a figure, `<name>.png`; forget the parts they were made of."""
        from flowerlib.accelerator import cpu_name  # not for all who need the rest: it imports TensorFlow

        versions = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
        about = {
            "date": date.today().isoformat(),
            "command": shlex.join(["python", "-m", "benchmarks", *_arguments()]),
            "machine": f"{cpu_name()}, {platform.system()}, Python {platform.python_version()}",
            "cores": os.cpu_count(),
            "versions": versions,
        }
        content = about | {"rows": [asdict(row) for row in self.rows], "raw": self.raw}
        with atomic_write(folder / f"{self.name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if self.figure is not None:
            with atomic_write(folder / f"{self.name}.png") as temporary:
                self.figure.savefig(temporary, dpi=120, format="png")
        for part in PARTS.glob(f"{self.name}-*.json"):
            part.unlink()


def _arguments() -> list[str]:
    """The command line's arguments, without the place of the data on this machine."""
    return [
        "DIR" if before == "--data" else re.sub(r"^--data=.*", "--data=DIR", argument)
        for before, argument in pairwise(sys.argv)
    ]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def rate(step: Callable[[], Any], wait: Callable[[Any], Any], batch: int, seconds: float = 3.0) -> float:
    """Return the images/s of a step of so many images, taken for some seconds; the first one does not count.

    `wait` returns when what a step returned has been computed.
    """
    wait(step())
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        wait([step() for _ in range(5)][-1])
        count += 5
    return count * batch / passed


def in_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let all take their turn, again and again; return what each call returned.

    Where there are several rounds, one more goes before them that does not count.
    """
    if rounds > 1:
        for run in contestants.values():
            run()
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            results[name].append(run())
    return results


def medians(results: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(values) for name, values in results.items()}


def ratio(results: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Return the median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(results[ours], results[theirs], strict=True))


def kept(name: str, what: list, compute: Callable[[], list]) -> list:
    """Return what `compute` returns; or what it returned before, where a stopped benchmark had come so far.

    Kept in `build/benchmarks/` until `Report.save`; `what` it depends on must be the same.
    """
    path = PARTS / f"{name}.json"
    if path.exists() and (part := json.loads(path.read_text("utf-8")))["what"] == what:
        return part["value"]
    value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"what": what, "value": value}), encoding="utf-8")
    return value


def write_table(readme: Path = README, results: Path = RESULTS) -> None:
    """Put all that is kept in `results` into the README, between its two marks."""
    before, rest = readme.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    with atomic_write(readme) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{markdown(results)}{END}{after}", encoding="utf-8")


def markdown(results: Path = RESULTS) -> str:
    """Return a table for each benchmark that is kept, with where and how it was measured."""
    parts = []
    for path in sorted(results.glob("*.json")):
        kept = json.loads(path.read_text("utf-8"))
        rows = [Row(**row) for row in kept["rows"]]
        parts += [
            f"### {path.stem}",
            f"{kept['date']}, {kept['machine']}: `{kept['command']}`",
            "| what | measured | unit | target | met |\n|---|---|---|---|---|\n"
            + "\n".join(
                f"| {' | '.join(map(_cell, (row.what, shown(row.value), row.unit, row.target, row.met)))} |"
                for row in rows
            ),
        ]
        if path.with_suffix(".png").exists():
            parts.append(f"![{path.stem}](results/{path.stem}.png)")
    return "".join(f"\n{part}\n" for part in parts) + "\n"


def _cell(text: object) -> str:
    """Text in a cell of a Markdown table, in which a bar would end it."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def small(flowers: Flowers) -> Flowers:
    """Return the first shard of each split: enough to see that something runs."""
    return replace(flowers, shards={split: shards[:1] for split, shards in flowers.shards.items()})


class Clock:
    """Seconds, those within `pause` not counted."""

    def __init__(self) -> None:
        self.began, self.paused = time.monotonic(), 0.0

    def now(self) -> float:
        """Return the seconds counted so far."""
        return time.monotonic() - self.began - self.paused

    def pause(self, measure: Callable[[], float]) -> tuple[float, float]:
        """Return the seconds counted so far and what `measure` returns, whose time is not counted."""
        seconds = self.now()
        began = time.monotonic()
        value = measure()
        self.paused += time.monotonic() - began
        return seconds, value


def reached(curve: Curve, goal: float) -> float | None:
    """Return the seconds at which a curve first is at the goal, None where it never is."""
    return next((seconds for seconds, score in curve if score >= goal), None)


def gain(ours: Curve, theirs: Curve, goal: float) -> float | None:
    """Return how many times as long they take to the goal; None where we never reach it.

    Where they never do, it is what they took in all, so that the true ratio is larger.
    """
    mine = reached(ours, goal)
    return mine and (reached(theirs, goal) or theirs[-1][0]) / mine


def curves_figure(curves: dict[str, Curve], goal: float) -> Figure:
    """Draw macro F1 over minutes, one line a contestant, and the goal as a dotted line."""
    figure = Figure((8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), ("o-", "s--", "^-."), strict=False):
        axes.plot([seconds / 60 for seconds, _ in curve], [score for _, score in curve], style, label=name)
    axes.axhline(goal, color="0.5", linestyle=":", label=f"macro F1 {goal}")
    axes.set(xlabel="minutes, validation not counted", ylabel="macro F1 on val")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def shown(value: float | None) -> str:
    """Return a value as the tables have it."""
    if value is None:
        return "never"
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def show(console: Console, title: str, rows: list[Row]) -> None:
    """Print rows as a table."""
    table = Table("what", "measured", "unit", "target", "met", title=title, title_justify="left")
    for row in rows:
        table.add_row(row.what, shown(row.value), row.unit, row.target, row.met)
    console.print(table)
