"""What DESIGN says of how the code is laid out, read from the source itself."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowerlib"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch"}
# The wings and the modules at the root, each above all that it may import.
ORDER = (
    "config", "accelerator", "parallel", "machine", "tfrecords", "figures", "data", "augmentation", "networks",
    "predictions", "training", "evaluation", "photos", "serving", "sample", "kernel", "series", "kaggle", "cli",
    "__main__",
)  # fmt: skip


def parsed(file):
    return ast.parse((PACKAGE / file).read_text("utf-8"))


def wing(name):
    """The wing, or the module at the root, that a file or a dotted name belongs to."""
    return name.removesuffix(".py").replace("/", ".").removeprefix("flowerlib.").split(".")[0]


def imported(file):
    """The dotted names of flowerlib that a file imports, anywhere in it, with the names they get there."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname) for alias in node.names if alias.name.startswith("flowerlib."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            if node.module.split(".")[0] == "flowerlib":
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", alias.asname or alias.name


def modules(file):
    """The files of flowerlib that a file imports."""
    for name, _ in imported(file):
        parts = name.split(".")[1:]
        for place in ("/".join(parts), "/".join(parts[:-1])):
            found = [path for path in (f"{place}.py", f"{place}/__init__.py") if path in FILES]
            if found:
                yield found[0]
                break


def test_the_order_of_the_wings_has_them_all():
    assert {wing(file) for file in FILES} - {"__init__"} == set(ORDER)
    assert sum("/" not in file for file in FILES) <= 8
    assert "data/__init__.py" in modules("training/features.py")  # `modules` finds something


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_a_wing_imports_only_what_stands_below_it(file):
    level = ORDER.index(wing(file))
    above = {name for name, _ in imported(file) if wing(name) in ORDER and ORDER.index(wing(name)) > level}
    assert above == set()


def test_no_module_imports_itself_through_others():
    todo = {file: set(modules(file)) - {file} for file in FILES if not file.endswith("__init__.py")}
    while free := [file for file in todo if not todo[file] & set(todo)]:
        for file in free:
            del todo[file]
    assert todo == {}


@pytest.mark.parametrize("file", FILES)
def test_no_wing_uses_a_private_name_of_another(file):
    others = {known: name for name, known in imported(file) if wing(name) != wing(file)}
    private = [name for name in others.values() if re.match(r"_[^_]", name.split(".")[-1])]
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in others:
            private += [f"{others[node.value.id]}.{node.attr}"] if re.match(r"_[^_]", node.attr) else []
    assert private == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("flowerlib", FRAMEWORKS | {"numpy"}),
        ("flowerlib.cli", FRAMEWORKS),
        # In processes of their own, each of which would import it.
        ("flowerlib.photos.preparation", FRAMEWORKS),
        ("flowerlib.sample.pictures", FRAMEWORKS),
    ],
)
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


def opens_text_in_the_locale(call):
    """Whether a call reads or writes text in no named encoding; ruff sees only paths of which it knows the type."""
    attribute = isinstance(call.func, ast.Attribute)
    name = call.func.attr if attribute else getattr(call.func, "id", "")
    if "encoding" in {keyword.arg for keyword in call.keywords}:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("run", "Popen", "check_output"):
        return "text" in {keyword.arg for keyword in call.keywords}
    modes = [node.value for argument in call.args[1:2] for node in ast.walk(argument) if isinstance(node, ast.Constant)]
    return name == "open" and not attribute and not any("b" in str(mode) for mode in modes)


@pytest.mark.parametrize("file", FILES)
def test_every_text_is_read_and_written_in_a_named_encoding(file):
    calls = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]
    assert [f"{file}:{call.lineno}" for call in calls if opens_text_in_the_locale(call)] == []


NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
MAX_CELL_LINES = 12
MAX_QUICKSTART_NAMES = 10  # of flowerlib: what a beginner meets first
MAX_BACKBONE_IMPORTS = 6


def code_of(name):
    """The code of each cell but for that of the parameters, which is replaced by its tag."""
    notebook = jupytext.read(ROOT / f"notebooks/{name}.py", fmt="py:percent")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["parameters" if "parameters" in cell.metadata.get("tags", []) else cell.source for cell in cells]


def flowerlib_names(name):
    """The modules of flowerlib that a notebook imports, and what it uses of them, as `module.name`."""
    nodes = list(ast.walk(ast.parse("\n".join(code_of(name)))))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "flowerlib"]
    known = {alias.asname or alias.name for node in imports for alias in node.names}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return known, {f"{node.value.id}.{node.attr}" for node in attributes if node.value.id in known}


def test_the_notebooks_10_to_13_differ_in_their_parameters_only():
    """14 trains a head, and shows how."""
    first, *others = (code_of(name) for name in NOTEBOOKS if name[:2] in ("10", "11", "12", "13"))
    assert len(others) == 3
    assert first.count("parameters") == 1
    assert all(other == first for other in others)


FITS = ("training.fit(", "training.fit_head(", "training.train_head(")
TRAINING = [name for name in NOTEBOOKS if any(fit in cell for cell in code_of(name) for fit in FITS)]


def test_the_notebooks_that_train_are_these():
    assert [name[:2] for name in TRAINING] == ["00", "03", "10", "11", "12", "13", "14"]


@pytest.mark.parametrize("name", TRAINING)
def test_what_training_took_hours_for_is_kept_before_anything_is_checked(name):
    """Nothing but the predictions comes between training and its files, which `training.save` writes, all of them."""
    cells = code_of(name)
    assert not any(isinstance(node, ast.Assert | ast.Raise) for cell in cells for node in ast.walk(ast.parse(cell)))
    [fitted] = [number for number, cell in enumerate(cells) if any(fit in cell for fit in FITS)]
    [saved] = [number for number, cell in enumerate(cells) if "training.save(" in cell]
    assert saved == fitted + 1
    statements = [ast.unparse(statement) for statement in ast.parse(cells[saved]).body]
    [end] = [number for number, each in enumerate(statements) if each.startswith("record = training.save(run, model, ")]
    for statement in statements[:end]:
        assert statement.startswith(("val, test = ", "model = keras.Sequential("))
        assert re.search(r"training\.predict(_head)?\(run|\*head\.layers", statement)
    assert not any("write_submission" in cell for cell in cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_cell_fits_on_a_screen_and_is_understood_at_once(name):
    too_long = {cell.splitlines()[0]: len(cell.splitlines()) for cell in code_of(name)}
    assert {first: lines for first, lines in too_long.items() if lines > MAX_CELL_LINES} == {}


def test_the_quickstart_needs_few_names():
    _, used = flowerlib_names("00_quickstart")
    assert "training.start" in used
    assert len(used) <= MAX_QUICKSTART_NAMES, sorted(used)


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("1")])
def test_a_backbone_notebook_imports_few_modules(name):
    known, _ = flowerlib_names(name)
    assert len(known) <= MAX_BACKBONE_IMPORTS, sorted(known)


def test_no_file_of_the_project_is_large():
    """A model or a dataset that is committed by mistake stays in every clone."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        pytest.skip("needs a clone")
    assert [name for name in done.stdout.split("\0") if name and (ROOT / name).stat().st_size > 500_000] == []
