"""What is wrong with a kernel is named with its remedy."""

import json
import re

import nbformat
import pytest

from flowerlib.config import FlowersError
from flowerlib.kaggle import check

GOOD = {
    "id": "alice/flowers-99-a-test",
    "title": "Flowers 99: a test",
    "code_file": "test.ipynb",
    "language": "python",
    "kernel_type": "notebook",
    "is_private": True,
    "enable_gpu": False,
    "enable_tpu": True,
    "enable_internet": False,
    "machine_shape": "TpuV5E8",
    "keywords": [],
    "dataset_sources": ["alice/weights", "alice/weights/3"],
    "competition_sources": ["tpu-getting-started"],
    "kernel_sources": ["alice/flowers-98"],
    "model_sources": ["google/efficientnet/keras/b0/1"],
}


@pytest.fixture
def problems(tmp_path):
    """Return `problems(metadata, *sources, **notebook metadata)`: what the check says of such a kernel."""

    def say(metadata, *sources, outputs=(), **more):
        cells = [nbformat.v4.new_code_cell(source, outputs=list(outputs)) for source in sources]
        about = {"kernelspec": {"name": "python3", "display_name": "Python 3"}} | more
        notebook = nbformat.v4.new_notebook(cells=cells) | {"metadata": about}
        (tmp_path / "test.ipynb").write_text(json.dumps(notebook))  # valid or not
        (tmp_path / "kernel-metadata.json").write_text(json.dumps(metadata))
        return [line.removeprefix(f"{tmp_path}/") for line in check.lint(tmp_path)]

    return say


def test_an_address_is_no_local_path(problems):
    assert problems(GOOD, "https://example.org/home/page/flowers") == []


def test_a_good_kernel_has_no_problem(problems):
    assert problems(GOOD, "print('sha256 c06b0cfe0cc5e900c57784484094331f095bf441995c3c31ea6c75691c786c35')") == []


def without(*names):
    return {key: value for key, value in GOOD.items() if key not in names}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (GOOD | {"machineshape": "TpuV5E8"}, "unknown key `machineshape`, .*; did you mean `machine_shape`"),
        (GOOD | {"id_no": "12"}, "`id_no` \\(='12'\\) must be a int, not a str"),
        (GOOD | {"id_no": True}, "`id_no` \\(=True\\) must be a int, not a bool"),
        (GOOD | {"idno": 12}, "unknown key `idno`, .*; did you mean `id_no`"),
        (
            GOOD | {"docker_image_pinning_type": "newest"},
            "`docker_image_pinning_type` .* must be one of original, latest",
        ),
        (GOOD | {"dataset_source": []}, "unknown key `dataset_source`, .*; did you mean `dataset_sources`"),
        (GOOD | {"docker_image": "x"}, "`docker_image` can put a TPU kernel on the plain CPU image .*; remove it"),
        (GOOD | {"enable_tpu": "true"}, "`enable_tpu` \\(='true'\\) must be a bool, not a str"),
        (GOOD | {"kernel_sources": "a/b"}, "`kernel_sources` .* must be a list, not a str"),
        (without("enable_internet"), "`enable_internet` is missing"),
        (GOOD | {"language": "r"}, "`language` \\(=r\\) must be python"),
        (GOOD | {"kernel_type": "script"}, "`kernel_type` \\(=script\\) must be notebook"),
        (GOOD | {"id": "flowers-99-a-test"}, "`id` .* must be owner/slug"),
        (GOOD | {"id": "username/flowers-99-a-test"}, "has no owner yet; run `flowerlib kaggle build --user"),
        (GOOD | {"id": "alice/other-slug"}, "Kaggle makes the slug 'flowers-99-a-test' of the title"),
        (GOOD | {"id": "alice/a-b", "title": "A B!!!"}, "the slug must have at least 5 characters"),
        (GOOD | {"id": "alice/" + "a" * 51, "title": "a" * 51}, "has 51 characters, but must have 5 to 50"),
        (GOOD | {"machine_shape": "TpuV38"}, "`machine_shape` \\(=TpuV38\\) is retired; use TpuV5E8"),
        (GOOD | {"machine_shape": "TpuV232"}, "`machine_shape` \\(=TpuV232\\) is retired, and Kaggle puts it on a CPU"),
        (GOOD | {"machine_shape": "TpuV5e8"}, "is unknown; did you mean TpuV5E8"),
        (GOOD | {"enable_gpu": True}, "contradict each other"),
        (GOOD | {"machine_shape": ""}, "contradict each other"),
        (GOOD | {"dataset_sources": ["weights"]}, "`dataset_sources`: 'weights' must be owner/slug"),
        (GOOD | {"dataset_sources": ["a/b/c"]}, "`dataset_sources`: 'a/b/c' must be owner/slug"),
        (GOOD | {"competition_sources": ["c/tpu-getting-started"]}, "must be a bare slug"),
        (GOOD | {"kernel_sources": [3]}, "`kernel_sources`: 3 must be owner/slug"),
        (GOOD | {"model_sources": ["google/efficientnet"]}, "must be owner/model/framework/variation/version"),
    ],
)
def test_wrong_metadata_are_named_with_the_remedy(problems, metadata, words):
    [problem] = problems(metadata, "1 + 1")
    assert problem.startswith("kernel-metadata.json: ")
    assert re.search(words, problem), problem


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("\nkey = 'KGAT_0123456789abcdef0123456789abcdef'", "cell 0: line 2 looks like a Kaggle token (KGAT_012...)"),
        ('{"username": "a", "key": "0123456789abcdef0123456789abcdef"}', "looks like a Kaggle token"),
        ("token = 'hf_abcdefghijklmnopqrstuvwxyz'", "looks like a token (hf_abcde...)"),
        ("-----BEGIN RSA PRIVATE KEY-----", "looks like a private key"),
        ("password = 'rosebud'", "looks like a password"),
        ("open('/home/alice/flowers/a.jpg')", "has the local path '/home/alice/'"),
        ("open('/Users/alice/a.jpg')", "has the local path '/Users/alice/'"),
        ("open('C:\\\\Users\\\\alice')", "has the local path"),
    ],
)
def test_secrets_and_local_paths_are_found_and_not_repeated(problems, source, words):
    [problem] = problems(GOOD, source)
    assert words in problem
    for secret in ("0123456789abcdef0123456789abcdef", "abcdefghijklmnopqrstuvwxyz", "rosebud"):
        assert secret not in problem


def test_what_stops_a_notebook_on_kaggle(problems, tmp_path):
    output = nbformat.v4.new_output("stream", text="2\n")
    assert problems(GOOD, "1 + 1", outputs=[output]) == ["test.ipynb: has outputs; clear them"]
    assert "has no kernelspec" in problems(GOOD, "1 + 1", kernelspec={})[0]
    assert "`metadata.kaggle`" in problems(GOOD, "1 + 1", kaggle={"accelerator": "none"})[0]
    assert "must have at most 1,000,000" in problems(GOOD, f"'{'x' * 1_000_000}'")[0]
    assert "has no kernelspec" in problems(GOOD, "1 + 1", kernelspec=[])[0]
    notebooks = [
        b"print('a script')",
        b"[]",
        b'{"cells": [{}], "metadata": {}}',
        b'{"cells": [], "metadata": 3}',
        b"\xff",
    ]
    for content in notebooks:
        (tmp_path / "test.ipynb").write_bytes(content)
        assert check.lint(tmp_path) == [f"{tmp_path}/test.ipynb: is not a notebook; run `flowerlib kaggle build`"]
    (tmp_path / "test.ipynb").unlink()
    assert check.lint(tmp_path) == [f"{tmp_path}/test.ipynb: does not exist; run `flowerlib kaggle build`"]


def test_metadata_that_cannot_be_read_are_an_error(tmp_path):
    assert "cannot be read" in check.lint(tmp_path)[0]
    for content, words in (("{", "cannot be read"), ("[]", "must hold a JSON object, not list")):
        (tmp_path / "kernel-metadata.json").write_text(content)
        assert words in check.lint(tmp_path)[0]


def test_all_problems_of_all_kernels_are_told_at_once(problems, tmp_path):
    problems(without("is_private", "keywords"), "password = 'rosebud'")
    with pytest.raises(FlowersError) as error:
        check.require([tmp_path, tmp_path / "absent"])
    assert len(str(error.value).splitlines()) == 4


def test_what_a_pulled_kernel_has_besides_is_known(problems):
    assert problems(GOOD | {"id_no": 12, "docker_image_pinning_type": "original"}, "1") == []


def test_the_known_keys_are_those_that_the_package_reads():
    """Every key that `kernels_push` of the installed package takes from the metadata."""
    import importlib.util
    from pathlib import Path

    package = Path(importlib.util.find_spec("kaggle").submodule_search_locations[0])
    source = (package / "api/kaggle_api_extended.py").read_text("utf-8")
    push = source.partition("def kernels_push(")[2].partition("\n    def ")[0]
    read = set(re.findall(r'meta_data(?:\.get\(|, )"(\w+)"', push))
    assert len(read) > 15
    assert read - {"docker_image"} == {*check.METADATA_TYPES, *check.OPTIONAL_TYPES}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_notebook_that_is_not_plain_utf_8_is_refused(problems, tmp_path, encoding):
    assert problems(GOOD, "1") == []
    path = tmp_path / "test.ipynb"
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    [problem] = check.lint(tmp_path)
    assert re.search(
        "byte-order mark, at which the kaggle package stops" if encoding == "utf-8-sig" else "is not a notebook",
        problem,
    )
