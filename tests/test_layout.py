"""What DESIGN says of how the code is laid out, read from the source itself."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowerlib"
AROUND = {"cli", "sample", "petals", "folder", "shards", "workers", "series", "kaggle", "__main__"}
AROUND |= {"photographs", "recogniser", "export", "serve", "page", "hosts", "connections", "jpeg"}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
CORE = [file for file in FILES if file.removesuffix(".py").split("/")[0] not in AROUND]
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch"}


def parsed(file):
    return ast.parse((PACKAGE / file).read_text())


def imported(file):
    """The modules of flowerlib that a file imports, anywhere in it, as `data` or `kaggle.push`."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name.removeprefix("flowerlib.") for name in names if name.startswith("flowerlib."))


def test_the_modules_of_the_design_are_told_apart():
    assert {"accelerator.py", "data.py", "augment.py", "metrics.py", "config.py"} <= set(CORE)
    assert "data" in set(imported("sample.py")) | set(imported("training.py"))  # `imported` finds something


@pytest.mark.parametrize("file", CORE)
def test_core_imports_nothing_of_what_is_around_it(file):
    assert {name.split(".")[0] for name in imported(file)} & AROUND == set()


@pytest.mark.parametrize(("module", "unwanted"), [("flowerlib", FRAMEWORKS | {"numpy"}), ("flowerlib.cli", FRAMEWORKS)])
def test_the_import_loads_no_framework(module, unwanted):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert set(json.loads(process.stdout)) & unwanted == set()


def public(tree):
    """The public functions, classes and methods of a module, with the names they are called by."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", method) for name, method in public(node))


@pytest.mark.parametrize("file", FILES)
def test_everything_public_has_a_docstring(file):
    tree = parsed(file)
    assert ast.get_docstring(tree)
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("file", FILES)
def test_everything_public_is_typed(file):
    untyped = []
    for name, node in public(parsed(file)):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        untyped += [f"{name}({each.arg})" for each in arguments if each and not each.annotation]
        untyped += [name] if node.returns is None else []
    assert [name for name in untyped if not name.endswith(("(self)", "(cls)"))] == []


def code_of(notebook):
    """The code of each cell but for that of the parameters, which is replaced by its tag."""
    cells = [cell for cell in jupytext.read(notebook, fmt="py:percent").cells if cell.cell_type == "code"]
    return ["parameters" if "parameters" in cell.metadata.get("tags", []) else cell.source for cell in cells]


@pytest.mark.parametrize(
    "names",
    [
        ("10_densenet201", "11_xception", "12_resnet152v2", "13_efficientnetb7"),  # trained
        ("00_quickstart", "14_efficientnetv2xl"),  # frozen
    ],
)
def test_the_notebooks_of_a_kind_differ_in_their_parameters_only(names):
    first, *others = (code_of(ROOT / f"notebooks/{name}.py") for name in names)
    assert first.count("parameters") == 1
    assert all(other == first for other in others)


TRAINING = [path.stem for path in sorted((ROOT / "notebooks").glob("*.py")) if "training.fit(" in path.read_text()]


@pytest.mark.parametrize("name", TRAINING)
def test_what_training_took_hours_for_is_kept_before_anything_is_checked(name):
    """Nothing but the predictions comes between training and its files."""
    cells = code_of(ROOT / f"notebooks/{name}.py")
    assert not any(isinstance(node, ast.Assert | ast.Raise) for cell in cells for node in ast.walk(ast.parse(cell)))
    [fitted], [saved] = (
        [number for number, cell in enumerate(cells) if call in cell] for call in ("training.fit(", "record.save_run(")
    )
    assert saved == fitted + 1
    assert cells[saved].index("record.save_run(") < cells[saved].index("predictions.write_submission(")
