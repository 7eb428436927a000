import io
import re
import sys
import time

import pytest
from tqdm import tqdm

from flowerlib.accelerator import keras
from flowerlib.series.progress import LastLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """Return `shown(text)`: what a terminal of 80 columns shows after a notebook has printed so much more."""
    monkeypatch.setenv("COLUMNS", "80")
    printed = LastLine(tqdm(bar_format="{desc}", miniters=1, mininterval=0, file=(terminal := Terminal())))

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
    printed = LastLine(tqdm(bar_format="{desc}", miniters=1, mininterval=0.1, file=terminal))
    for number in range(20_000):
        printed.write(f"{number}\n")
    assert terminal.getvalue().count("\r") <= 2 + 10 * (time.monotonic() - began)
    time.sleep(0.1)
    printed.write("the end")
    assert "the end" in terminal.getvalue()
