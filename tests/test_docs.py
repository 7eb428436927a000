"""What the documentation says, held against the code: commands, links, Python snippets, names, settings."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import jupytext
import pytest
import typer

from flowerlib.cli.commands import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
PROGRAMS = ("flowerlib", "make", "kaggle", "python", "pytest", "jupytext", "pip", "curl", "git")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:flowerlib|make) [^`]+)`")


def name(path):
    return path.relative_to(ROOT).as_posix()


@cache
def text(page):
    """The text of a page, or the prose of a notebook."""
    if page.suffix == ".md":
        return page.read_text()
    cells = jupytext.read(page, fmt="py:percent").cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def blocks(page, language):
    return [code for found, code in FENCED.findall(text(page)) if found == language]


def block_lines(page):
    """The lines of indented blocks and of fenced ones without a language."""
    prose = FENCED.sub("", text(page))
    indented = [line[4:] for line in prose.splitlines() if re.match(r"    \S", line)]
    return indented + [line for code in blocks(page, "") for line in code.splitlines()]


def commands(line):
    """The commands of a line as lists of words, without prompt, variables and comment; none for what is output."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return
    command = []
    for word in [*words, "&&"]:
        if word in ("&&", "|", ";"):
            if command and (program := command[0].removeprefix(".venv/bin/")) in PROGRAMS:
                yield [program, *command[1:]]
            command = []
        elif command or not re.match(r"[A-Z_]+=", word):
            command.append(word)


def found(program):
    """Each command of a program in a block of a page, as parameters of a test."""
    lines = [(page, words) for page in PAGES for line in block_lines(page) for words in commands(line)]
    return [
        pytest.param(words[1:], id=f"{name(page)}: {' '.join(words)}") for page, words in lines if words[0] == program
    ]


def test_the_pages_have_commands():
    counts = {program: len(found(program)) for program in PROGRAMS}
    assert counts["flowerlib"] > 30
    assert counts["make"] > 5
    assert counts["kaggle"] > 2


def leaf(arguments):
    """The command that arguments name, what is left for it, and the context it is called in."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.context_class(command, parent=context, info_name=command.name)
        if not hasattr(command, "commands") or not arguments or arguments[0].startswith("-"):
            return command, arguments, context
        subcommand = command.get_command(context, arguments[0])
        assert subcommand, f"there is no command {arguments[0]!r}"
        command, arguments = subcommand, arguments[1:]


def check_options(arguments, hidden=False):
    """Fail where a command or an option of it does not exist, or is an old name."""
    command, rest, context = leaf(arguments)
    known = {option: parameter for parameter in command.get_params(context) for option in parameter.opts}
    known |= {option: parameter for parameter in command.params for option in parameter.secondary_opts}
    for option in (word for word in rest if re.match(r"--?[a-z]", word)):
        assert option in known, f"{command.name} has no option {option}"
        assert hidden or not getattr(known[option], "hidden", False), f"{option} is an old name"


@pytest.mark.parametrize("arguments", found("flowerlib"))
def test_a_command_line_is_one_that_flowerlib_takes(arguments):
    check_options(arguments)
    command, rest, context = leaf(arguments)
    if not hasattr(command, "commands"):
        command.make_context(command.name, list(rest), parent=context.parent)  # values and missing arguments too


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_a_command_in_a_sentence_exists(page):
    for words in (words for line in INLINE.findall(text(page)) for words in commands(line)):
        check_options(words[1:]) if words[0] == "flowerlib" else check_target(words[1:])


def test_a_command_in_a_message_exists():
    for path in sorted((ROOT / "flowerlib").rglob("*.py")):
        for line in re.findall(r"`(flowerlib [^`{}\n]+)`", path.read_text()):
            for words in (words for words in commands(line) if "..." not in words):
                check_options(words[1:], hidden=True)


def test_every_command_is_documented():
    everything = "\n".join(map(text, PAGES))
    group = typer.main.get_command(app)
    names = [command for command in group.commands if command != "kaggle"]
    names += [f"kaggle {name}" for name, command in group.commands["kaggle"].commands.items() if not command.hidden]
    assert [command for command in names if not re.search(rf"flowerlib {command}\b", everything)] == []


TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_target(arguments):
    assert set(arguments) <= TARGETS


@pytest.mark.parametrize("arguments", found("make"))
def test_a_target_of_make_exists(arguments):
    check_target(arguments)


def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {line.split()[1] for line in done.stdout.splitlines()} == TARGETS


PARSE_KAGGLE = """
import argparse, contextlib, io, json, sys

class Found(Exception):
    pass

def stop(parser, *_):
    raise Found(parser)

lines = json.load(sys.stdin)  # kaggle closes it
parse_args, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, stop
with contextlib.redirect_stdout(io.StringIO()):  # without credentials the import tells how to get some
    from kaggle import cli
    try:
        cli.main()
    except Found as found:
        parser = found.args[0]
for arguments in lines:
    parse_args(parser, arguments)
"""


def test_command_lines_of_kaggle_are_ones_that_it_takes(tmp_path):
    lines = json.dumps([parameters.values[0] for parameters in found("kaggle")])
    nobody = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PARSE_KAGGLE]
    done = subprocess.run(command, input=lines, env=os.environ | nobody, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [*found("python"), *found("pytest"), *found("jupytext")])
def test_files_in_a_command_line_exist(arguments):
    for path in (word for word in arguments if re.fullmatch(r"(tests|docs|notebooks)/.*\.py", word)):
        assert "NAME" in path or (ROOT / path).exists()


@pytest.mark.parametrize("arguments", found("python"))
def test_a_benchmark_exists(arguments):
    if arguments[:2] == ["-m", "benchmarks"]:
        from benchmarks.__main__ import NAMES

        assert {word for word in arguments[2:] if re.fullmatch("[a-z]+", word)} <= {"all", *NAMES}


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text(page)))
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 120
    pages = {path.resolve() for path in PAGES if path != README}
    links = re.findall(r"\]\(([^)#\s]+)", README.read_text())
    notebooks = {path.with_suffix(".ipynb") for path in NOTEBOOKS}
    assert (pages | notebooks) - {(ROOT / link).resolve() for link in links} == set()


RECIPES = ROOT / "docs/export.md"  # which tests/photos/test_export.py runs, in a folder of an export
SNIPPETS = [(page, code) for page in PAGES if page != RECIPES for code in blocks(page, "python")]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[name(page) for page, _ in SNIPPETS])
def test_a_python_snippet_runs(page, code, trained, photographs_of_val, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "outputs/runs/00_quickstart")
    shutil.copy(next(photographs_of_val.glob("*.jpg")), tmp_path / "rose.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name(page), "exec"), {})
    assert "[(" in capsys.readouterr().out


def test_the_readme_has_a_snippet():
    assert README in [page for page, _ in SNIPPETS]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_json_is_json(page):
    assert all(json.loads(code) for code in blocks(page, "json"))


def test_every_variable_is_explained():
    sources = "\n".join(
        path.read_text() for path in [*(ROOT / "flowerlib").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    )
    read = set(re.findall(r"\"(FLOWERS_[A-Z]+(?:_[A-Z]+)*)\"", sources))
    page = text(ROOT / "docs/configuration.md")
    assert read == set(re.findall(r"^\| `(FLOWERS_[A-Z_]+)`", page, re.MULTILINE))


def test_the_twins_are_told_as_their_files_have_them():
    """Each version of a machine's file stands in its column of the table, and no other."""
    lines = [line for line in text(ROOT / "docs/kaggle.md").splitlines() if line.startswith("| ")]
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines) if len(cells) == 5}
    names = {
        "TensorFlow": ["tensorflow-cpu"],
        "Keras": ["keras"],
        "JAX, jaxlib": ["jax", "jaxlib"],
        "NumPy": ["numpy"],
        "pandas, Pillow, OpenCV": ["pandas", "pillow", "opencv-python-headless"],
    }
    for column, machine in ((2, "tpu"), (3, "gpu")):
        packages = (ROOT / f"tests/twin/{machine}.txt").read_text("utf-8")
        pinned = dict(re.findall(r"^([\w-]+)==([\d.]*\d)", packages, re.MULTILINE))
        for row, known in names.items():
            versions = {pinned[name] for name in known if name in pinned}
            assert set(re.findall(r"\d+(?:\.\d+)+", rows[row][column])) == versions, (row, machine)


def imports_between_wings():
    """For each wing the wings that it imports; config, accelerator, parallel and machine are `ground`."""
    ground, package = ("config", "accelerator", "parallel", "machine"), ROOT / "flowerlib"
    known = {path.stem for path in package.iterdir()}
    imports = {}
    for path in package.rglob("*.py"):
        wing = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flowerlib":
                first = node.module.split(".")[1:2]
                for imported in first or [alias.name for alias in node.names]:
                    one, other = ("ground" if each in ground else each for each in (wing, imported))
                    if one != other and imported in known and not wing.startswith("__"):
                        imports.setdefault(one, set()).add(other)
    return imports


def reachable(graph, start):
    todo, reached = [start], set()
    while todo:
        new = graph.get(todo.pop(), set()) - reached
        reached |= new
        todo += new
    return reached


def test_the_drawing_of_the_wings_is_what_they_import():
    [drawing] = blocks(ROOT / "docs/architecture.md", "mermaid")
    drawn = {}
    for one, other in re.findall(r"^    (\w+) --> (\w+)$", drawing, re.MULTILINE):
        drawn.setdefault(one, set()).add(other)
    imports = imports_between_wings()
    assert {one: reachable(drawn, one) for one in drawn} == {one: reachable(imports, one) for one in imports}
    too_much = [(one, other) for one in drawn for other in drawn[one] - imports[one]]
    assert too_much == []


def test_files_that_the_architecture_names_exist():
    page = text(ROOT / "docs/architecture.md")
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", page)
    assert len(paths) > 10
    assert [path for path in paths if not ((ROOT / path).exists() or (ROOT / "flowerlib" / path).exists())] == []


TERMS = (
    "transfer learning", "feature extraction", "fine-tuning", "test-time augmentation", "hyperparameter", "checkpoint",
    "overfitting", "confusion matrix", "class imbalance", "data leakage", "cross-validation",
)  # fmt: skip


@pytest.mark.parametrize("term", TERMS)
def test_a_standard_term_is_used(term):
    """Readers search for it: a notebook has it, and a page too."""
    assert any(term in text(page).lower() for page in NOTEBOOKS)
    assert any(term in text(page).lower() for page in PAGES)


# Words of earlier versions that nothing is called any more.
OLD_WORDS = re.compile(
    r"\blookers?\b|\brecognis(?:e|er|ed|es|ing)\b|\bGuess\b|\bTrouble\b|\brehears\w+|\bretrain\w*"
    r"|\bhead_times\b|\bsurest\b|\bwritten_whole\b|\bsilenced\b|\bhold_out\b|\btrain_many\b|\bsave_run\b|\bfrozen_before\b"
    r"|\blook_batch\b|\bVARIED\b|\bALIKE\b|\bFEWEST\b|\bENDED_BADLY\b|\bMOST_PIXELS\b"
)
WORDS_IN_ANY_CASE = re.compile(r"(?i)\blookers?\b|\brecogniser\b|\bhead_times\b|\bfrozen_before\b|\blook_batch\b")
# Where old words must stay: what was called by them, and the tests of it.
KEEPING = (
    "CHANGELOG.md",
    "tests/test_docs.py",
    "tests/test_earlier_versions.py",
    "tests/training/test_train_config.py",
    "tests/versions/",
    "benchmarks/results/",
)
READERS_OF_OLD_RECORDS = (
    r"RENAMED_KEYS = \{.*?\n\}",
    r'\{"rehearsal": "smoke"\}',
    r"<!-- results: .*<!-- end of results -->",
)
# Files that still have old words; to be emptied.
PENDING: tuple[str, ...] = ()


def own_files():
    """Every text of the project."""
    for folder in ("flowerlib", "notebooks", "tests", "benchmarks", "docs", ".github"):
        yield from (
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".ipynb", ".md", ".html", ".js", ".yml")
        )
    yield from (path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt") or path.name == "Makefile")


def test_old_words_are_gone():
    left = []
    for path in own_files():
        if not name(path).startswith((*KEEPING, *PENDING)):
            content = path.read_text()
            for pattern in READERS_OF_OLD_RECORDS:
                content = re.sub(pattern, "", content, flags=re.DOTALL)
            words = {*OLD_WORDS.findall(content), *WORDS_IN_ANY_CASE.findall(content)}
            left += [f"{name(path)}: {', '.join(sorted(words))}"] if words else []
    assert left == []


def test_one_version_of_ruff():
    versions = {
        version
        for path in ("pyproject.toml", ".pre-commit-config.yaml")
        for version in re.findall(r"ruff==([\d.]+)", (ROOT / path).read_text())
    }
    assert len(versions) == 1
