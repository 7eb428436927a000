"""What users wrote is printed as it is: no markup of rich, no emoji of its own."""

import json
import shutil

import pytest

from flowerlib.cli import listing
from flowerlib.kaggle.loop import print_line


@pytest.mark.parametrize("name", ["[red]rose[/]", ":rose:", "[/]", "a|b", "Ba$$in"])
def test_a_run_is_listed_by_the_name_that_it_has(name, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "[b]out[/b]/runs" / name.replace("/", "%"))
    record = tmp_path / "[b]out[/b]/runs" / name.replace("/", "%") / "run.json"
    content = json.loads(record.read_text("utf-8"))
    record.write_text(json.dumps(content | {"backbone": name}), encoding="utf-8")
    listing.show(tmp_path / "[b]out[/b]")
    shown = "".join(capsys.readouterr().out.split())
    assert name in shown
    assert name.replace("/", "%") in shown
    assert "[b]out[/b]" in shown


def test_a_line_is_printed_as_it_is(capsys):
    from rich.console import Console

    print_line(Console(), ":rose: [red]rose[/]")
    assert capsys.readouterr().out == ":rose: [red]rose[/]\n"
