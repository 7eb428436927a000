"""What a terminal shows while a notebook runs: its last line, above a bar that counts cells."""

import re
import shutil

from tqdm import tqdm
from tqdm.utils import disp_trim

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[@-~]?")  # colours, movements; one may not have come whole yet


class LastLine:
    """What a notebook prints, as a file of which `shown` shows the last line."""

    def __init__(self, shown: tqdm, prefix: str = "") -> None:
        self.shown, self.prefix, self.text = shown, prefix, ""

    def write(self, text: str) -> None:
        """Show the last line that shows something; seldom enough for a terminal, as `shown` goes by `mininterval`."""
        self.text = (self.text + text)[-1000:]
        lines = ("".join(filter(str.isprintable, part)) for part in re.split(r"[\r\n\b]", ESCAPE.sub("", self.text)))
        last = ([line.strip() for line in lines if line.strip()] or [""])[-1]
        line = disp_trim(self.prefix + last, shutil.get_terminal_size().columns - 1)
        self.shown.set_description_str(line, refresh=False)
        self.shown.update()

    def flush(self) -> None:
        """Nothing: what is due is shown."""
