"""A kernel's first cell holds exactly the files that its notebook imports, and unpacks them."""

import ast
import re
import subprocess
import sys

import clone
import pytest
from kaggle_helpers import files_in, first_code, read_all_files, read_kernel

from flowerlib.kaggle import embedding, kernels
from flowerlib.kaggle.outputs import NO_ACCELERATOR


@pytest.mark.parametrize("name", sorted(kernels.SERIES))
def test_flowerlib_travels_as_it_is_with_all_that_it_imports(built_clone, name):
    files = files_in(first_code(built_clone, name))
    for path, text in files.items():
        if path == "flowerlib/LICENSE":
            assert text == (clone.ROOT / "LICENSE").read_text()
        elif path.startswith("flowerlib/"):
            assert text.encode() == (clone.ROOT / path).read_bytes()
    _, notebook = read_kernel(built_clone, name)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for text in [*files.values(), code]:
        for module, names in re.findall(r"^ *from (flowerlib[.\w]*) import \(?([\w ,\n]*)", text, re.MULTILINE):
            package = module.replace(".", "/")
            assert {f"{package}.py", f"{package}/__init__.py"} & set(files)
            for each in re.findall(r"(\w+)(?: as \w+)?", names):
                if (clone.ROOT / package / f"{each}.py").exists():
                    assert f"{package}/{each}.py" in files


def test_the_package_that_kaggle_lacks_travels_where_it_is_used(built_clone):
    for name in kernels.SERIES:
        files = [path for path in files_in(first_code(built_clone, name)) if path.startswith("keras_efficientnet_v2/")]
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


def test_the_first_cell_unpacks_what_the_rest_imports(built_clone, tmp_path):
    done = unpack(built_clone, "14_efficientnetv2xl", tmp_path, stop="dict")
    assert done.returncode == 0, done.stderr
    for file in done.stdout.splitlines()[-1].split():
        assert file.startswith(f"{tmp_path}/flowerlib-")
    [folder] = tmp_path.glob("flowerlib-*")
    unpacked = {name: content.decode() for name, content in read_all_files(folder).items() if ".pyc" not in name}
    assert unpacked == files_in(first_code(built_clone, "14_efficientnetv2xl"))


def test_a_tpu_kernel_on_a_cpu_ends_with_the_reason(built_clone, tmp_path):
    done = unpack(built_clone, "14_efficientnetv2xl", tmp_path)
    assert done.returncode == 1
    assert "without its accelerator: the notebook was sent to run on 8 devices but only 1 x CPU" in done.stderr
    assert NO_ACCELERATOR.search(done.stderr)  # by which `flowerlib kaggle run` sends it again
    assert not NO_ACCELERATOR.search(first_code(built_clone, "14_efficientnetv2xl"))  # which a traceback may quote


@pytest.mark.parametrize(
    "text", ["plain\n", "'''", 'ends with a quote"', "back\\slash\\", "\r\n and \r", "ä 花\n", "'"]
)
def test_any_text_is_embedded_exactly(text):
    assert ast.literal_eval(embedding._literal(text)) == text
