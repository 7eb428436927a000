"""`python -m benchmarks NAME... --data DIR`: measure, print the table, keep it in `benchmarks/results`."""

import subprocess
import sys
import time
from importlib import import_module
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness import show, write_table
from flowerlib.config import FlowersError

NAMES = ("start", "input", "look", "batch", "recipes", "growth", "frozen", "redense", "finetune", "serve", "tpu")
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m benchmarks input --data ~/flowers --quick")
def main(
    names: Annotated[list[str], typer.Argument(help=f"One or more of {', '.join(NAMES)}; or all.", show_default=False)],
    data: Annotated[str, typer.Option(help="A dataset in the competition's layout, with 192 px images.")],
    quick: Annotated[bool, typer.Option("--quick", help="Few images and rounds: to see that it runs.")] = False,
) -> None:
    """Measure flowerlib beside what a user would take instead, in the same run."""
    chosen = NAMES if names == ["all"] else names
    if unknown := [name for name in chosen if name not in NAMES]:
        sys.exit(f"error: no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}, and all")
    for name in chosen:
        if quick or len(chosen) == 1:
            _measure(name, data, quick)
        # What one leaves in memory and threads slows the next one's contestants, and not all alike.
        elif code := subprocess.run([sys.executable, "-m", "benchmarks", name, "--data", data]).returncode:
            sys.exit(code)


def _measure(name: str, data: str, quick: bool) -> None:
    began = time.monotonic()
    try:
        report = import_module(f"benchmarks.{name}").run(data, quick)
    except FlowersError as error:
        sys.exit(f"error: {error}")
    show(Console(), f"{name}, {time.monotonic() - began:.0f} s", report.rows)
    if not quick:
        report.save()
        write_table()


if __name__ == "__main__":
    app()
