"""Devices and backends, each in a process of its own: a backend is chosen once and devices are counted once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from flowerlib import accelerator

# Trains the same network from the same weights on the same batches, first as Keras does it alone on one device, then
# within the scope of what `setup` returns. Prints what the tests look at as the last line.
TRAINING = """
import importlib.util, json, os, sys
import numpy as np

PREPARE
from flowerlib import accelerator
from flowerlib.accelerator import keras, tf

report = {"backend": keras.backend.backend(), "hostnames": os.environ.get("TPU_WORKER_HOSTNAMES")}
report["scikit-learn"] = ["sklearn" in sys.modules, importlib.util.find_spec("sklearn") is not None]
rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 96)
images = rng.uniform(0, 1, (96, 8, 8, 3)) + np.eye(4)[labels][:, None, None, :3]
batches = tf.data.Dataset.from_tensor_slices((images.astype("float32"), np.eye(4, dtype="float32")[labels]))
batches = batches.batch(32, drop_remainder=True).repeat(4)  # one epoch: each costs a mirrored strategy seconds

def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, activation="softmax"),
    ])
    model.compile(keras.optimizers.Adam(0.05), "categorical_crossentropy")
    return model

class Losses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.losses = []
    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))

def losses(model):
    record = Losses()
    model.fit(batches, shuffle=False, verbose=0, callbacks=[record])
    return record.losses

report["one_device"] = losses(network())

device = accelerator.setup()
report["device"] = [device.kind, device.num_replicas, device.backend, str(device)]
report["strategy"] = type(device.strategy).__name__
with device.scope():
    model = network()
report["all_devices"] = losses(model)
value = model.layers[0].kernel.value
report["copies"] = COPIES

os.environ["FLOWERS_EXPECT"] = "cpu"
accelerator.setup()
for expected in ("tpu", "npu"):
    os.environ["FLOWERS_EXPECT"] = expected
    try:
        accelerator.setup()
    except accelerator.FlowersError as error:
        report[expected] = str(error)
print(json.dumps(report))
"""

REFUSALS = """
import json, os, sys
from flowerlib.config import FlowersError

report = {}
try:
    import flowerlib.accelerator
except FlowersError as error:
    report["torch"] = str(error)
report["imported for torch"] = sorted({"keras", "tensorflow", "torch"} & set(sys.modules))
os.environ["KERAS_BACKEND"] = "jax"
import keras
os.environ["KERAS_BACKEND"] = "tensorflow"
import flowerlib.accelerator
try:
    flowerlib.accelerator.setup()
except FlowersError as error:
    report["keras first"] = str(error)
print(json.dumps(report))
"""


EIGHT_CPUS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 8)
"""
PROCESSES = {
    "tensorflow": (
        TRAINING.replace("PREPARE", EIGHT_CPUS).replace("COPIES", "len(value.values)"),
        {"TPU_WORKER_HOSTNAMES": "WARNING: could not determine TPU worker hostnames"},
    ),
    "jax": (
        TRAINING.replace("PREPARE", "").replace("COPIES", "len(value.sharding.device_set)"),
        {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "KERAS_BACKEND": "jax",
            "TPU_WORKER_HOSTNAMES": "t1v-n-0.internal:8470,10.0.0.2",
        },
    ),
    "refusals": (REFUSALS, {"KERAS_BACKEND": "torch"}),
}


@pytest.fixture(scope="module")
def reports():
    """Run all at once, on CPU only, warnings being errors, and return the JSON that each prints as its last line."""
    chosen_elsewhere = ("FLOWERS_", "KERAS_", "TF_", "TPU_", "XLA_", "JAX_", "CUDA_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(chosen_elsewhere)}
    environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = {
        name: subprocess.Popen([sys.executable, "-W", "error", "-c", code], env=environment | own, **pipes)
        for name, (code, own) in PROCESSES.items()
    }
    found = {}
    for name, process in running.items():
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        found[name] = json.loads(output.splitlines()[-1])
    return found


@pytest.fixture
def tensorflow_run(reports):
    return reports["tensorflow"]


@pytest.fixture
def jax_run(reports):
    return reports["jax"]


@pytest.fixture
def refusals(reports):
    return reports["refusals"]


@pytest.fixture(params=["tensorflow", "jax"])
def run(reports, request):
    return reports[request.param]


def test_on_a_cpu_tensorflow_is_chosen(tensorflow_run):
    assert tensorflow_run["backend"] == "tensorflow"


def test_keras_does_not_import_scikit_learn_and_others_can(jax_run):
    assert jax_run["scikit-learn"] == [False, True]


def test_keras_backend_is_honoured(jax_run):
    assert jax_run["backend"] == "jax"


def test_eight_devices_are_eight_replicas_and_each_has_the_weights(run):
    kind, num_replicas, backend, description = run["device"]
    assert (kind, num_replicas, backend) == ("cpu", 8, run["backend"])
    assert description.startswith("8 x CPU (")
    assert description.endswith(f" on {backend}, float32")
    assert run["copies"] == 8


def test_tensorflow_mirrors_and_jax_needs_no_strategy(tensorflow_run, jax_run):
    assert tensorflow_run["strategy"] == "MirroredStrategy"
    assert jax_run["strategy"] == "NoneType"


def test_eight_devices_train_as_one_does(run):
    assert len(run["one_device"]) == 12  # three batches, four times
    assert run["one_device"][-1] < 0.8 * run["one_device"][0]  # it learns, so there was something to get wrong
    np.testing.assert_allclose(run["all_devices"], run["one_device"], rtol=1e-4)


def test_a_job_that_expects_a_tpu_stops_on_a_cpu(run):
    message = run["tpu"]
    assert message.startswith("`FLOWERS_EXPECT` (=tpu) asks for that kind of device but only 8 x CPU (")
    assert "choose the accelerator in the notebook's settings, or unset FLOWERS_EXPECT" in message
    assert "\n" not in message


def test_a_device_that_there_is_not_is_an_error(run):
    assert run["npu"] == "`FLOWERS_EXPECT` (=npu) must be tpu, gpu or cpu, or unset to take what is there"


def test_a_warning_in_place_of_host_names_is_removed_and_host_names_are_kept(tensorflow_run, jax_run):
    assert tensorflow_run["hostnames"] is None
    assert jax_run["hostnames"] == "t1v-n-0.internal:8470,10.0.0.2"


def test_another_backend_is_refused_before_anything_is_loaded(refusals):
    assert refusals["torch"] == ("`KERAS_BACKEND` (=torch) must be jax or tensorflow, or unset to let flowerlib choose")
    assert refusals["imported for torch"] == []


def test_keras_imported_before_with_another_backend_is_refused(refusals):
    assert "Keras was imported before flowerlib and runs on jax" in refusals["keras first"]
    assert "restart the kernel" in refusals["keras first"]
    assert "\n" not in refusals["keras first"]


COMPILES = """
from flowerlib import accelerator
import jax
accelerator.enable_compilation_cache()
assert jax.config.jax_compilation_cache_max_size == 4 * 2**30
read = []
jax.monitoring.register_event_listener(lambda event, **_: read.append(event) if "cache_hits" in event else None)
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))), len(read))
"""


def test_a_compiled_program_is_read_by_the_next_process(tmp_path):
    environment = os.environ | {"KERAS_BACKEND": "jax", "XDG_CACHE_HOME": str(tmp_path)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # else only what takes a second is kept
    for hits in (0, 1):
        done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True)
        total, read = done.stdout.split()
        assert float(total) == 64**3
        assert (int(read) > 0) == bool(hits), done.stderr
    assert list((tmp_path / "flowerlib/xla").iterdir())


@pytest.mark.parametrize("backend", ["", "jax"])
def test_an_accelerator_that_cannot_be_used_is_one_line_that_says_what_to_do(backend):
    """As on a machine whose TPU is busy: JAX is told that there is one, and cannot reach it."""
    environment = os.environ | {"JAX_PLATFORMS": "tpu", "KERAS_BACKEND": backend}
    code = "from flowerlib import accelerator; accelerator.setup()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "flowerlib.config.FlowersError: the accelerator cannot be used (Unable to initialize backend 'tpu': "
    )
    assert "end other notebooks that use it, then restart this one; if there are none, begin a new session" in last


@pytest.mark.parametrize(
    ("kind", "capability", "policy"),
    [
        ("tpu", (), "mixed_bfloat16"), ("cpu", (), "float32"),
        ("gpu", (9, 0), "mixed_bfloat16"), ("gpu", (8, 0), "mixed_bfloat16"),  # H100, A100
        ("gpu", (7, 5), "mixed_float16"), ("gpu", (7, 0), "mixed_float16"),  # T4, V100
        ("gpu", (6, 0), "float32"), ("gpu", (10, 0), "mixed_bfloat16"), ("gpu", (), "float32"),  # P100, B200, AMD
    ],
)  # fmt: skip
def test_each_device_gets_the_precision_that_its_matrix_units_have(kind, capability, policy):
    assert accelerator.best_policy(kind, capability) == policy


@pytest.mark.parametrize(("told", "capability"), [("7.5", (7, 5)), ("10.0", (10, 0)), ("gfx90a", ()), ("", ())])
def test_compute_capabilities_are_read_as_jax_tells_them(told, capability):
    assert accelerator._capability(told) == capability


def test_jax_may_take_nine_tenths_of_a_gpu_unless_it_is_told_otherwise():
    code = "import flowerlib.accelerator, os; print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_PYTHON_CLIENT_MEM_FRACTION"}
    for own, expected in (({}, "0.9"), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "0.5")):
        done = subprocess.run([sys.executable, "-c", code], env=environment | own, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
