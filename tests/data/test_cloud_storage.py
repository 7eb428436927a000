"""`gs://` as it is: TensorFlow's own file system, against a server on loopback with each of its faults."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from storage_server import StorageServer, make_certificate, write_key_file

TESTS = Path(__file__).parents[1]
ATTEMPTS = 5  # of TensorFlow, as flowerlib sets it, before a request counts as failed
CALLS = """
import contextlib, io, json, os, sys, time
from flowerlib import cli, data  # so that TensorFlow is imported once, for all calls

for line in sys.stdin:
    arguments, environment = json.loads(line)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    sys.argv, began = ["flowerlib", *arguments], time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    if isinstance(code, str):  # which the interpreter prints
        code, _ = 1, print(code, file=err)
    print(json.dumps([code, out.getvalue(), err.getvalue(), time.monotonic() - began]), flush=True)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
"""


class Done:
    """What a command did: exit code, what it printed, seconds."""

    def __init__(self, returncode, stdout, stderr, seconds):
        self.returncode, self.stdout, self.stderr, self.seconds = returncode, stdout, stderr, seconds


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("needs the program openssl, which makes a certificate")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(certificate):
    with StorageServer(certificate) as server:
        yield server
        assert server.unknown == []


@pytest.fixture(scope="module")
def environment(server, tmp_path_factory):
    """Return the environment of a process that speaks to the server, whose patience with silence is a second."""
    wanted = os.environ | server.environment(tmp_path_factory.mktemp("home"))
    wanted |= {"GCS_REQUEST_IDLE_TIMEOUT_SECS": "1", "GCS_STAT_CACHE_MAX_AGE": "0"}
    wanted |= {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000"}  # instead of a second, and then twice as long
    return {name: value for name, value in wanted.items() if value is not None}


@pytest.fixture(scope="module")
def process(environment):
    """Return a process that calls commands, one after the other."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CALLS], env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def flowerlib(process, tmp_path):
    """Return `flowerlib(*arguments, **environment)`, which calls a command, with an empty cache, in that process."""

    def call(*arguments, **variables):
        variables = {"XDG_CACHE_HOME": str(tmp_path / "cache")} | variables
        print(json.dumps([[*map(str, arguments)], variables]), file=process.stdin, flush=True)
        return Done(*json.loads(process.stdout.readline()))

    return call


@pytest.fixture
def bucket(server, flowers):
    """Return the name of a public bucket that holds the tiny dataset below `flowers/`, in a server without faults."""
    server.faults.clear()
    server.requests.clear()
    server.sent.clear()
    server.before_read = lambda name: None
    name = f"bucket-{len({bucket for bucket, _ in server.objects})}"
    server.put(name, Path(flowers.root), at="flowers/")
    return name


@pytest.fixture
def sizes(flowers):
    """Return the bytes of each object that holds records."""
    root = Path(flowers.root)
    return {f"flowers/{path.relative_to(root)}": path.stat().st_size for path in root.rglob("*.tfrec")}


def refused(done, *words):
    """Assert exit code 1 and one line of error that has these words."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not re.search(r"it/s\]|s/it\]", line)]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_public_bucket_is_found_counted_and_checked_and_no_metadata_server_is_asked(
    flowerlib, server, bucket, flowers, sizes
):
    server.fail("metadata", 502, ...)  # as a company's proxy answers; to ask takes 10 s then, or 10 minutes in silence
    done = flowerlib("check", "--data", f"gs://{bucket}/flowers")
    assert done.returncode == 0, done.stderr
    assert f"gs://{bucket}/flowers: 23 train, 9 val, 7 test images of 24 x 24 px, 4 classes" in done.stdout
    assert flowers.fingerprint in done.stdout
    assert "metadata" not in {kind for kind, _ in server.requests}
    assert done.seconds < 5
    assert {name: sent for name, sent in server.sent.items() if name in sizes} == {n: 2 * s for n, s in sizes.items()}


def test_the_bucket_itself_may_be_the_dataset(flowerlib, server, bucket, flowers):
    """Of a public bucket anybody may list the objects, and nobody may ask about the bucket."""
    server.put(f"{bucket}-itself", Path(flowers.root))
    done = flowerlib("check", "--data", f"gs://{bucket}-itself")
    assert done.returncode == 0, done.stderr
    assert "bucket" not in {kind for kind, _ in server.requests}


@pytest.mark.parametrize("fault", [429, 503, "cut", 0.3])
@pytest.mark.parametrize("kind", ["list", "read"])
def test_what_fails_once_is_asked_for_again(flowerlib, server, bucket, kind, fault):
    server.fail(kind, fault)
    done = flowerlib("check", "--data", f"gs://{bucket}/flowers")
    assert done.returncode == 0, done.stderr
    assert not server.faults[kind]


FAULTS = {
    "no right": (("list", 403, ...), ("flowers` cannot be read: it is not public", "key file", "gcloud auth")),
    "no right to read": (("read", 403, ...), ("00-24x24-8.tfrec` cannot be read: it is not public",)),
    "throttled": (("list", 429, ...), ("it is asked too often; try again in some minutes (HTTP 429)",)),
    "throttled reading": (("read", 429, ...), ("00-24x24-8.tfrec` cannot be read: it is asked too often",)),
    "cut": (("read", "cut", ...), ("the connection fails again and again; try again later", "bytes missing")),
    "out of order": (("stat", 500, ...), ("the connection fails again and again", "HTTP response code 500")),
    "silent": (("list", 30.0, ...), ("the connection fails again and again", "aborted")),
}  # kind of request and its faults, words of the error


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_one_line_after_a_few_attempts(flowerlib, server, bucket, name):
    (kind, *faults), words = FAULTS[name]
    server.fail(kind, *faults)
    refused(flowerlib("check", "--data", f"gs://{bucket}/flowers"), f"`gs://{bucket}/", *words)
    asked = [request for request in server.requests if request[0] == kind]
    assert asked.count(asked[0]) == (1 if 403 in faults else ATTEMPTS)


@pytest.mark.parametrize("place", ["gs://no-such-bucket/flowers", "gs://{bucket}/flower", "gs://no-such-bucket"])
def test_what_is_not_there_is_said_to_be_not_there(flowerlib, bucket, place):
    place = place.format(bucket=bucket)
    refused(
        flowerlib("check", "--data", place), f"no flowers found: no folder `tfrecords-jpeg-<S>x<S>` in `{place}` (not"
    )


def test_a_certificate_that_is_not_trusted_names_the_variable(flowerlib, bucket, tmp_path):
    place = f"gs://{bucket}/flowers"
    refused(flowerlib("check", "--data", place, CURL_CA_BUNDLE=str(tmp_path / "no")), "name one in CURL_CA_BUNDLE")
    make_certificate(tmp_path)
    of_others = {"CURL_CA_BUNDLE": str(tmp_path / "cert.pem")}
    refused(
        flowerlib("check", "--data", place, **of_others), "not trusted; name a file of certificates in CURL_CA_BUNDLE"
    )


def test_no_network_is_said_to_be_none(flowerlib, bucket):
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    refused(flowerlib("check", "--data", f"gs://{bucket}/flowers", **nowhere), "there is no connection")


def test_a_private_bucket_needs_a_key_and_each_lack_is_told_apart(flowerlib, server, bucket, tmp_path):
    server.private.add(bucket)
    place = f"gs://{bucket}/flowers"
    refused(flowerlib("check", "--data", place), f"`{place}` cannot be read: it is not public", "(HTTP 401)")
    gone = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gone.json")}
    refused(flowerlib("check", "--data", place, **gone), f"(={tmp_path}/gone.json) is no file; correct it")
    others = write_key_file(tmp_path / "others.json", make_certificate(tmp_path))
    done = flowerlib("check", "--data", place, GOOGLE_APPLICATION_CREDENTIALS=str(others))
    refused(
        done, f"the account of `GOOGLE_APPLICATION_CREDENTIALS` (={others}) may not read it, or its key is not valid"
    )


def test_a_private_bucket_is_read_with_a_key_file(server, bucket, environment, certificate, tmp_path):
    """In a process of its own, as TensorFlow keeps what the key was exchanged for."""
    server.private.add(bucket)
    key = {"GOOGLE_APPLICATION_CREDENTIALS": str(write_key_file(tmp_path / "key.json", certificate))}
    command = [sys.executable, "-m", "flowerlib", "check", "--data", f"gs://{bucket}/flowers"]
    done = subprocess.run(command, env=environment | key, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [kind for kind, _ in server.requests].count("token") == 1


TRAIN = """
import sys

import tiny
from flowerlib import data

flowers = data.find(path=sys.argv[1])
model = tiny.network(4)
model.compile("sgd", "categorical_crossentropy")
val = data.eval_batches(flowers, "val", 4).map(lambda images, labels, _: (images, tiny.keras.ops.one_hot(labels, 4)))
history = model.fit(data.train_batches(flowers, 8), steps_per_epoch=3, epochs=3, validation_data=val, verbose=0).history
print(history, [images.numpy().sum() for images, _, _ in data.eval_batches(flowers, "test", 4)])
"""


def test_training_is_as_on_a_folder_and_files_are_fetched_once(server, bucket, flowers, sizes, environment, tmp_path):
    """Read once for the fingerprint and once for the copy, of which all epochs and all later runs read."""

    def train(place):
        variables = environment | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
        command = [sys.executable, "-c", TRAIN, place]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    on_a_folder = train(flowers.root)
    for times in (2, 3):
        assert train(f"gs://{bucket}/flowers") == on_a_folder
        assert {name: server.sent[name] for name in sizes} == {name: times * size for name, size in sizes.items()}


def replace_before_read(server, bucket, name, number, content=None):
    """Replace an object, by its bytes in reverse unless given, before it is read for the `number`th time."""
    read = []

    def replace(now):
        read.append(now)
        if now == name and read.count(name) == number:
            server.replace(bucket, name, server.objects[bucket, name][::-1] if content is None else content)

    server.before_read = replace


def test_what_is_replaced_between_finding_and_checking_is_named(flowerlib, server, bucket):
    name = "flowers/tfrecords-jpeg-24x24/val/00-24x24-5.tfrec"
    replace_before_read(server, bucket, name, 2)
    refused(flowerlib("check", "--data", f"gs://{bucket}/flowers"), f"`gs://{bucket}/{name}` record 0", "altered")


def test_what_becomes_shorter_while_it_is_read_is_named(flowerlib, server, bucket):
    name = "flowers/classes.json"
    replace_before_read(server, bucket, name, 1, b"[")
    refused(flowerlib("check", "--data", f"gs://{bucket}/flowers"), f"`gs://{bucket}/{name}`")


NOTEBOOK = ("run", "00_quickstart", "-p", "IMAGE_SIZE=24", "-p", "SIZES=24", "-p", "EPOCHS=2")


def test_the_quickstart_runs_on_a_bucket(flowerlib, server, bucket, flowers, tmp_path):
    """With its real network, on the tiny dataset: about half a minute."""
    out = tmp_path / "outputs"
    done = flowerlib(*NOTEBOOK, "--data", f"gs://{bucket}/flowers", "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "runs/00_quickstart/run.json").read_text())
    assert record["data"]["fingerprint"] == flowers.fingerprint
    assert len((out / "submission.csv").read_text().splitlines()) == 1 + flowers.count("test")


@pytest.mark.parametrize("name", ["no right", "throttled", "cut", "silent"])
def test_the_quickstart_stops_at_a_fault_with_one_line(flowerlib, server, bucket, tmp_path, name):
    (kind, *faults), words = FAULTS[name]
    server.fail(kind, *faults)
    once = {"GCS_RETRY_CONFIG_MAX_RETRIES": "1"}
    refused(flowerlib(*NOTEBOOK, "--data", f"gs://{bucket}/flowers", "--out", tmp_path / "outputs", **once), *words)


def test_the_quickstart_stops_at_what_is_not_there(flowerlib, bucket, tmp_path):
    done = flowerlib(*NOTEBOOK, "--data", f"gs://{bucket}/flower", "--out", tmp_path / "outputs")
    refused(done, f"no flowers found: no folder `tfrecords-jpeg-<S>x<S>` in `gs://{bucket}/flower` (not there)")


def test_the_quickstart_trains_on_nothing_that_was_replaced_after_it_was_checked(flowerlib, server, bucket, tmp_path):
    name = "flowers/tfrecords-jpeg-24x24/train/00-24x24-8.tfrec"
    replace_before_read(server, bucket, name, 3)
    done = flowerlib(*NOTEBOOK, "--data", f"gs://{bucket}/flowers", "--out", tmp_path / "outputs")
    refused(done, f"`gs://{bucket}/{name}` was replaced while it was read; run the same command again")
