"""The command line: `flowerlib` or `python -m flowerlib`.

Each command is a thin function that imports what it needs: `--help` loads no framework. Read `commands` first.
"""

import io
import sys

from flowerlib.config import FlowersError


def main() -> None:
    """Run a command; an error that the user can put right is one line, and exit code 1."""
    from flowerlib.cli.commands import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is escaped, instead of an error
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (FlowersError, RuntimeError) as error:
        sys.exit(f"error: {error}")
