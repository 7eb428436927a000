"""Kernels are built from a copy of the repository, and read back with nothing of ours."""

import ast
import json
import re
import subprocess
import sys

import clone
import nbformat
import pytest
from slugify import slugify

from flowerlib.config import FlowersError
from flowerlib.kaggle import build, kernels

BACKBONES = ["10_densenet201", "11_xception", "12_resnet152v2", "13_efficientnetb7", "14_efficientnetv2xl"]
TRAINED = ["03_finetune", *BACKBONES, "30_tpu_vs_gpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy in which all is built, for tests that only read it."""
    folder = clone.make(tmp_path_factory.mktemp("clone"))
    build.build(user="someone", root=folder)
    return folder


def read(root, name):
    """A built kernel: its metadata and its notebook, valid."""
    folder = root / "build/kernels" / name
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    notebook = nbformat.read(folder / metadata["code_file"], as_version=4)
    nbformat.validate(notebook)
    return metadata, notebook


def first_code(root, name):
    return next(cell.source for cell in read(root, name)[1].cells if cell.cell_type == "code")


def files_in(source):
    """The files in a first cell: name -> text, by Python's own reader of literals."""
    tree = ast.parse(source)
    [value] = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_files"]
    return ast.literal_eval(value)


def every_byte(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_notebook_is_a_kernel_and_every_kernel_a_notebook(root):
    assert sorted(kernels.SERIES) == sorted(path.stem for path in (clone.ROOT / "notebooks").glob("*.py"))
    assert sorted(path.name for path in (root / "build/kernels").iterdir()) == sorted(kernels.SERIES)


def test_a_source_stands_before_what_it_feeds():
    names = list(kernels.SERIES)
    for kernel in kernels.SERIES.values():
        assert all(names.index(source) < names.index(kernel.notebook) for source in kernel.sources)


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_the_kernel_is_clean_and_small(root, name):
    metadata, notebook = read(root, name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert (root / "build/kernels" / name / metadata["code_file"]).stat().st_size < 500_000  # Kaggle takes 1 MB
    assert "docker_image" not in metadata
    assert metadata["id"] == f"someone/{slugify(metadata['title'])}"
    assert metadata["competition_sources"] == ["tpu-getting-started"]
    on_tpu = name in TRAINED
    assert (metadata["enable_tpu"], metadata["enable_gpu"]) == (on_tpu, False)
    assert metadata["machine_shape"] == ("TpuV5E8" if on_tpu else "")
    assert ("kernel.start(devices=8)" in first_code(root, name)) == on_tpu


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_all_cells_but_the_first_code_are_the_notebook_s_own(root, name):
    original = nbformat.read(clone.ROOT / f"notebooks/{name}.ipynb", as_version=4)
    cells = read(root, name)[1].cells
    assert cells.pop(1).metadata["_kg_hide-input"] is True
    linked = [re.sub(r"\]\(https://www.kaggle.com/code/[\w/-]+\)", "](link)", cell.source) for cell in cells]
    assert linked == [re.sub(r"\]\(\w+\.ipynb\)", "](link)", cell.source) for cell in original.cells]


def test_links_lead_to_the_kernels(root):
    text = "".join(cell.source for cell in read(root, "01_eda")[1].cells)
    assert "[02_augmentation](https://www.kaggle.com/code/someone/flowers-02-augmentation)" in text


def test_the_ensemble_is_fed_by_the_seven_that_predict(root):
    sources = read(root, "20_ensemble")[0]["kernel_sources"]
    assert sources == [read(root, name)[0]["id"] for name in ["00_quickstart", "03_finetune", *BACKBONES]]
    assert all(read(root, name)[0]["kernel_sources"] == [] for name in kernels.SERIES if name != "20_ensemble")


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_flowerlib_travels_as_it_is_with_all_that_it_imports(root, name):
    files = files_in(first_code(root, name))
    for path, text in files.items():
        if path == "flowerlib/LICENSE":
            assert text == (clone.ROOT / "LICENSE").read_text()
        elif path.startswith("flowerlib/"):
            assert text.encode() == (clone.ROOT / path).read_bytes()
    _, notebook = read(root, name)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for text in [*files.values(), code]:
        for module, names in re.findall(r"^ *from (flowerlib[.\w]*) import \(?([\w ,\n]*)", text, re.MULTILINE):
            package = module.replace(".", "/")
            assert {f"{package}.py", f"{package}/__init__.py"} & set(files)
            for each in re.findall(r"(\w+)(?: as \w+)?", names):
                if (clone.ROOT / package / f"{each}.py").exists():
                    assert f"{package}/{each}.py" in files


def test_the_package_that_kaggle_lacks_travels_where_it_is_used(root):
    for name in kernels.SERIES:
        files = [path for path in files_in(first_code(root, name)) if path.startswith("keras_efficientnet_v2/")]
        modules = ["LICENSE", "__init__.py", "efficientnet_v1.py", "efficientnet_v2.py", "version.py"]
        wanted = [f"keras_efficientnet_v2/{file}" for file in modules]
        assert files == (wanted if name in ("13_efficientnetb7", "14_efficientnetv2xl") else [])


UNPACK = """
import sys
sys.path = [place for place in sys.path if "site-packages" in place or "lib/python" in place]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
source, stop = sys.argv[1], sys.argv[2]
exec(compile(open(source).read().replace("kernel.start", stop), source, "exec"))
import keras_efficientnet_v2, flowerlib
print(flowerlib.__file__, keras_efficientnet_v2.__file__)
"""


def unpack(root, name, tmp_path, stop="kernel.start", **environment):
    """Execute a kernel's first cell in a process that knows no other flowerlib."""
    (tmp_path / "cell.py").write_text(first_code(root, name))
    command = [sys.executable, "-c", UNPACK, str(tmp_path / "cell.py"), stop]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | environment
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)


def test_the_first_cell_unpacks_what_the_rest_imports(root, tmp_path):
    done = unpack(root, "14_efficientnetv2xl", tmp_path, stop="dict")
    assert done.returncode == 0, done.stderr
    for file in done.stdout.splitlines()[-1].split():
        assert file.startswith(f"{tmp_path}/flowerlib-")
    [folder] = tmp_path.glob("flowerlib-*")
    unpacked = {name: content.decode() for name, content in every_byte(folder).items() if ".pyc" not in name}
    assert unpacked == files_in(first_code(root, "14_efficientnetv2xl"))


def test_a_tpu_kernel_on_a_cpu_ends_with_the_reason(root, tmp_path):
    done = unpack(root, "14_efficientnetv2xl", tmp_path)
    assert done.returncode == 1
    assert "FlowersError: this notebook was sent to run on 8 devices but only 1 x CPU" in done.stderr


def test_the_same_input_gives_the_same_bytes(root, tmp_path):
    again = clone.make(tmp_path / "again")
    build.build(user="someone", root=again)
    build.build(user="someone", root=again)
    assert every_byte(again / "build") == every_byte(root / "build")
    assert (again / "kernel-metadata.json").read_bytes() == (root / "kernel-metadata.json").read_bytes()


def contents(folder):
    """Notebook -> content hash, as the copy's own flowerlib builds it."""
    done = clone.flowerlib(folder, "kaggle", "build", "--user", "someone")
    assert done.returncode == 0, done.stderr
    *kernels_built, flagship = done.stdout.splitlines()
    assert flagship.startswith("kernel-metadata.json: now of ")
    return {line.split("/")[2].split(":")[0]: line.split()[-1] for line in kernels_built}


def test_the_hash_follows_whatever_decides_a_run(tmp_path):
    folder = clone.make(tmp_path / "clone")
    before = contents(folder)
    assert len(set(before.values())) == len(before) == len(kernels.SERIES)

    notebook = folder / "notebooks/12_resnet152v2.ipynb"
    notebook.write_text(notebook.read_text().replace("EPOCHS = 20", "EPOCHS = 21"))
    after = contents(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"12_resnet152v2", "20_ensemble"}  # and what it feeds

    metrics = folder / "flowerlib/metrics.py"
    metrics.write_text(metrics.read_text() + "# another line\n")
    last = contents(folder)
    assert set(last.items()).isdisjoint(after.items())

    (folder / "flowerlib/petals.py").write_text("# no notebook imports this\n")
    assert contents(folder) == last


def test_the_root_describes_the_flagship_and_follows_the_build(tmp_path):
    folder = clone.make(tmp_path)
    checked_in = json.loads((folder / "kernel-metadata.json").read_text())
    assert kernels.owner(folder) == kernels.NOBODY
    build.build(["01_eda"], user="alice", root=folder)
    flagship = json.loads((folder / "kernel-metadata.json").read_text())
    assert flagship == checked_in | {"id": "alice/flowers-14-efficientnetv2xl"}
    assert (folder / flagship["code_file"]).is_file()
    build.build(user="alice", root=folder)
    assert read(folder, "14_efficientnetv2xl")[0] == flagship | {"code_file": "14_efficientnetv2xl.ipynb"}
    assert (folder / flagship["code_file"]).is_file()

    build.build(user="bob", to=folder / "elsewhere", root=folder)
    assert kernels.owner(folder) == "alice"


def test_an_accelerator_named_is_for_the_kernels_that_train_and_for_this_once(tmp_path):
    folder = clone.make(tmp_path)
    build.build(user="alice", accelerator="NvidiaTeslaT4", root=folder)
    for name in kernels.SERIES:
        metadata, _ = read(folder, name)
        trains = name in TRAINED
        assert metadata["machine_shape"] == ("NvidiaTeslaT4" if trains else "")
        assert (metadata["enable_gpu"], metadata["enable_tpu"]) == (trains, False)
        assert ('kernel.start(kind="gpu")' in first_code(folder, name)) == trains
    flagship = json.loads((folder / "kernel-metadata.json").read_text())
    assert flagship["machine_shape"] == "TpuV5E8"
    assert "kernel.start(devices=8)" in (folder / flagship["code_file"]).read_text()
    build.build(["10_densenet201"], user="alice", root=folder)
    assert read(folder, "10_densenet201")[0]["machine_shape"] == "TpuV5E8"


def test_offline_kernels_take_their_weights_from_the_dataset(tmp_path):
    folder = clone.make(tmp_path)
    for online, datasets in ((False, ["alice/flowerlib-weights"]), (True, [])):
        build.build(user="alice", online=online, root=folder)
        for name in kernels.SERIES:
            metadata, _ = read(folder, name)
            assert metadata["enable_internet"] is online
            pretrained = name in ["00_quickstart", "03_finetune", *BACKBONES]
            assert metadata["dataset_sources"] == (datasets if pretrained else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "username"}, "whose kernels are they? Give `--user NAME`, or log in"),
        ({"user": "a/b"}, "`user` (=a/b) must be a name as in the address of a Kaggle profile"),
        ({"accelerator": "TpuV38"}, "`accelerator` (=TpuV38) must be one of TpuV5E8, .*; it is retired, use TpuV5E8"),
        ({"accelerator": "T4"}, "`accelerator` (=T4) must be one of TpuV5E8, TpuV6E8, NvidiaTeslaT4, .*"),
        ({"notebooks": ["03_none"]}, "no notebook '03_none'; there are 00_quickstart, 01_eda, .*"),
    ],
)
def test_what_cannot_be_built_is_an_error_and_nothing_is_written(tmp_path, options, message):
    folder = clone.make(tmp_path)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(FlowersError, match=pattern):
        build.build(**{"user": "alice"} | options, root=folder)
    assert not (folder / "build").exists()
    assert kernels.owner(folder) == kernels.NOBODY


def test_metadata_that_lack_something_are_an_error(tmp_path):
    folder = clone.make(tmp_path)
    described = json.loads((folder / "kernel-metadata.json").read_text())
    for key in ("machine_shape", "enable_internet", "dataset_sources"):
        rest = {name: value for name, value in described.items() if name != key}
        (folder / "kernel-metadata.json").write_text(json.dumps(rest))
        with pytest.raises(FlowersError, match=f"`kernel-metadata.json` lacks `{key}`; `git checkout"):
            build.build(user="alice", root=folder)


def test_what_a_kernel_reads_is_one_line_of_its_first_cell(root):
    made = build.make(kernels.SERIES["20_ensemble"], "someone", root=root)
    before, after = (each.notebook.cells[1].source.splitlines() for each in (made, made.reading(["a/b/1", "a/c/22"])))
    [added] = set(after) - set(before)
    assert added == "# reads a/b/1 a/c/22"
    assert [line for line in after if line != added] == before
    assert files_in("\n".join(after)) == files_in("\n".join(before))


@pytest.mark.parametrize(
    "text", ["plain\n", "'''", 'ends with a quote"', "back\\slash\\", "\r\n and \r", "ä 花\n", "'"]
)
def test_any_text_is_embedded_exactly(text):
    assert ast.literal_eval(build._literal(text)) == text
