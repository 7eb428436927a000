"""Kernels are built from a copy of the repository, and read back without flowerlib."""

import json
import re

import clone
import nbformat
import pytest
from kaggle_helpers import change_library, files_in, first_code, read_all_files, read_kernel
from slugify import slugify

from flowerlib.config import FlowersError
from flowerlib.kaggle import build, kernels

BACKBONES = ["10_densenet201", "11_xception", "12_resnet152v2", "13_efficientnetb7", "14_efficientnetv2xl"]
TRAINED = ["03_finetune", *BACKBONES, "30_tpu_vs_gpu"]


def test_every_notebook_is_a_kernel_and_every_kernel_a_notebook(built_clone):
    assert sorted(kernels.SERIES) == sorted(path.stem for path in (clone.ROOT / "notebooks").glob("*.py"))
    assert sorted(path.name for path in (built_clone / "build/kernels").iterdir()) == sorted(kernels.SERIES)


def test_a_source_stands_before_what_it_feeds():
    names = list(kernels.SERIES)
    for kernel in kernels.SERIES.values():
        assert all(names.index(source) < names.index(kernel.notebook) for source in kernel.sources)


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_the_kernel_is_clean_and_small(built_clone, name):
    metadata, notebook = read_kernel(built_clone, name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert (built_clone / "build/kernels" / name / metadata["code_file"]).stat().st_size < 500_000  # Kaggle takes 1 MB
    assert "docker_image" not in metadata
    assert metadata["id"] == f"someone/{slugify(metadata['title'])}"
    assert metadata["competition_sources"] == ["tpu-getting-started"]
    on_tpu = name in TRAINED
    assert (metadata["enable_tpu"], metadata["enable_gpu"]) == (on_tpu, False)
    assert metadata["machine_shape"] == ("TpuV5E8" if on_tpu else "")
    assert ("kernel.start(devices=8)" in first_code(built_clone, name)) == on_tpu


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_all_cells_but_the_first_code_are_the_notebook_s_own(built_clone, name):
    original = nbformat.read(clone.ROOT / f"notebooks/{name}.ipynb", as_version=4)
    cells = read_kernel(built_clone, name)[1].cells
    assert cells.pop(1).metadata["_kg_hide-input"] is True
    linked = [re.sub(r"\]\(https://www.kaggle.com/code/[\w/-]+\)", "](link)", cell.source) for cell in cells]
    assert linked == [re.sub(r"\]\(\w+\.ipynb\)", "](link)", cell.source) for cell in original.cells]


def test_links_lead_to_the_kernels(built_clone):
    text = "".join(cell.source for cell in read_kernel(built_clone, "01_eda")[1].cells)
    assert "[02_augmentation](https://www.kaggle.com/code/someone/flowers-02-augmentation)" in text


def test_the_ensemble_is_fed_by_the_seven_that_predict(built_clone):
    sources = read_kernel(built_clone, "20_ensemble")[0]["kernel_sources"]
    assert sources == [read_kernel(built_clone, name)[0]["id"] for name in ["00_quickstart", "03_finetune", *BACKBONES]]
    assert all(
        read_kernel(built_clone, name)[0]["kernel_sources"] == [] for name in kernels.SERIES if name != "20_ensemble"
    )


def test_the_same_input_gives_the_same_bytes(built_clone, tmp_path):
    again = clone.make(tmp_path / "again")
    build.build(user="someone", root=again)
    build.build(user="someone", root=again)
    assert read_all_files(again / "build") == read_all_files(built_clone / "build")
    assert (again / "kernel-metadata.json").read_bytes() == (built_clone / "kernel-metadata.json").read_bytes()


def contents(folder):
    """Notebook -> content hash, as the copy's own flowerlib builds it."""
    done = clone.flowerlib(folder, "kaggle", "build", "--user", "someone")
    assert done.returncode == 0, done.stderr
    *kernels_built, flagship = done.stdout.splitlines()
    assert flagship.startswith("kernel-metadata.json: now owned by ")
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

    change_library(folder)
    last = contents(folder)
    assert set(last.items()).isdisjoint(after.items())

    (folder / "flowerlib/sample/pictures.py").write_text("# no notebook imports this\n")
    assert contents(folder) == last


def test_the_root_describes_the_flagship_and_follows_the_build(tmp_path):
    folder = clone.make(tmp_path)
    checked_in = json.loads((folder / "kernel-metadata.json").read_text())
    assert kernels.owner(folder) == kernels.PLACEHOLDER_OWNER
    build.build(["01_eda"], user="alice", root=folder)
    flagship = json.loads((folder / "kernel-metadata.json").read_text())
    assert flagship == checked_in | {"id": "alice/flowers-14-efficientnetv2xl"}
    assert (folder / flagship["code_file"]).is_file()
    build.build(user="alice", root=folder)
    assert read_kernel(folder, "14_efficientnetv2xl")[0] == flagship | {"code_file": "14_efficientnetv2xl.ipynb"}
    assert (folder / flagship["code_file"]).is_file()

    build.build(user="bob", out=folder / "elsewhere", root=folder)
    assert kernels.owner(folder) == "alice"


def test_an_accelerator_named_is_for_the_kernels_that_train_and_for_this_once(tmp_path):
    folder = clone.make(tmp_path)
    build.build(user="alice", accelerator="NvidiaTeslaT4", root=folder)
    for name in kernels.SERIES:
        metadata, _ = read_kernel(folder, name)
        trains = name in TRAINED
        assert metadata["machine_shape"] == ("NvidiaTeslaT4" if trains else "")
        assert (metadata["enable_gpu"], metadata["enable_tpu"]) == (trains, False)
        assert ("kernel.start(devices=2)" in first_code(folder, name)) == trains
    flagship = json.loads((folder / "kernel-metadata.json").read_text())
    assert flagship["machine_shape"] == "TpuV5E8"
    assert "kernel.start(devices=8)" in (folder / flagship["code_file"]).read_text()
    build.build(["10_densenet201"], user="alice", root=folder)
    assert read_kernel(folder, "10_densenet201")[0]["machine_shape"] == "TpuV5E8"


@pytest.mark.parametrize(
    ("given", "machine", "start"),
    [
        ("TpuV38", "TpuV5E8", "devices=8"),
        ("Tpu1VmV38", "TpuV5E8", "devices=8"),
        ("NvidiaTeslaP100", "NvidiaTeslaT4", "devices=2"),
        ("NvidiaL4", "NvidiaL4", 'kind="gpu"'),
    ],
)
def test_a_retired_accelerator_becomes_what_kaggle_gives_for_it(tmp_path, given, machine, start):
    folder = clone.make(tmp_path)
    build.build(["10_densenet201"], user="alice", accelerator=given, root=folder)
    assert read_kernel(folder, "10_densenet201")[0]["machine_shape"] == machine
    assert f"kernel.start({start})" in first_code(folder, "10_densenet201")


def test_offline_kernels_take_their_weights_from_the_dataset(tmp_path):
    folder = clone.make(tmp_path)
    for online, datasets in ((False, ["alice/flowerlib-weights"]), (True, [])):
        build.build(user="alice", online=online, root=folder)
        for name in kernels.SERIES:
            metadata, _ = read_kernel(folder, name)
            assert metadata["enable_internet"] is online
            pretrained = name in ["00_quickstart", "03_finetune", *BACKBONES]
            assert metadata["dataset_sources"] == (datasets if pretrained else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "username"}, "the kernels need an owner: give `--user NAME`, or log in"),
        ({"user": "a/b"}, "`user` (=a/b) must be a Kaggle user name, as in the address of the profile"),
        ({"accelerator": "TpuV232"}, "`accelerator` (=TpuV232) is retired, and Kaggle puts it on a CPU without a word"),
        ({"accelerator": "TpuV2256"}, "`accelerator` (=TpuV2256) is retired, .*; use TpuV5E8"),
        (
            {"accelerator": "NvidiaTeslaT4Highmem"},
            "`accelerator` (=NvidiaTeslaT4Highmem) is for Kaggle's admins only; use NvidiaTeslaT4",
        ),
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
    assert kernels.owner(folder) == kernels.PLACEHOLDER_OWNER


def test_metadata_that_lack_something_are_an_error(tmp_path):
    folder = clone.make(tmp_path)
    described = json.loads((folder / "kernel-metadata.json").read_text())
    for key in ("machine_shape", "enable_internet", "dataset_sources"):
        rest = {name: value for name, value in described.items() if name != key}
        (folder / "kernel-metadata.json").write_text(json.dumps(rest))
        with pytest.raises(FlowersError, match=f"`kernel-metadata.json` lacks `{key}`; `git checkout"):
            build.build(user="alice", root=folder)


def test_what_a_kernel_reads_is_one_line_of_its_first_cell(built_clone):
    made = build.make(kernels.SERIES["20_ensemble"], "someone", root=built_clone)
    before, after = (
        built.notebook.cells[1].source.splitlines() for built in (made, made.with_source_versions(["a/b/1", "a/c/22"]))
    )
    [added] = set(after) - set(before)
    assert added == "# reads a/b/1 a/c/22"
    assert [line for line in after if line != added] == before
    assert files_in("\n".join(after)) == files_in("\n".join(before))
