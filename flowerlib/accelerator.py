"""Find the TPU, the GPUs or the CPU; choose the Keras backend; make training data-parallel over all of it.

The one place where `KERAS_BACKEND` is chosen, so import Keras from here: `from flowerlib.accelerator import keras`.

Kaggle's TPU machines carry no TensorFlow that can drive the TPU, so JAX drives it and tf.data feeds it. On a CPU it is
the other way round: TensorFlow (oneDNN) trains a convolutional network about eight times faster there than XLA does.
"""

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowerlib.config import FlowersError, cache_dir, suppress_native_stderr


def _choose_backend() -> str:
    """Return `KERAS_BACKEND` where it is set, else `jax` where JAX sees a TPU or GPU, else `tensorflow`."""
    # Kaggle sometimes puts the text of a warning here, on which libtpu stops.
    if not re.fullmatch(r"[\w.:,-]*", os.environ.get("TPU_WORKER_HOSTNAMES", "")):
        del os.environ["TPU_WORKER_HOSTNAMES"]
    # JAX takes 75 % of a GPU's memory unless told otherwise before it is imported: of a T4, 11 GB instead of 13.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    backend = os.environ.get("KERAS_BACKEND") or ("jax" if _jax_platform() in ("tpu", "gpu") else "tensorflow")
    if backend not in ("jax", "tensorflow"):
        raise FlowersError(f"`KERAS_BACKEND` (={backend}) must be jax or tensorflow, or unset to let flowerlib choose")
    if backend == "jax" and not importlib.util.find_spec("jax"):
        raise FlowersError("`KERAS_BACKEND` (=jax) needs JAX: pip install '.[jax]' in flowerlib's folder, or unset it")
    return backend


def _bound_waiting_for_storage() -> None:
    """Have TensorFlow tell soon of a `gs://` address that fails: by default it makes eleven attempts at each request.

    It reads these variables when it is imported. Where no key file is named it asks Google's metadata server for an
    account, eleven times too where a proxy or a firewall stands for it: on machines that are not Google's it shall not.
    Which ones are is told as in google-auth (compute_engine/_metadata.py).
    """
    for name, value in STORAGE_DEFAULTS.items():
        os.environ.setdefault(name, value)
    product = Path("/sys/class/dmi/id/product_name")
    if not (product.exists() and product.read_text("utf-8").startswith("Google")):
        os.environ.setdefault("NO_GCE_CHECK", "true")


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Let Keras not import scikit-learn where it is installed: only `keras.wrappers` would use it, and then cannot.

    `python -X importtime -c "import keras"` tells what it takes: 2 s of the 7 that importing this module took.
    """
    hidden = {"sklearn": None} if "sklearn" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _jax_platform() -> str | None:
    return _first_device().platform if importlib.util.find_spec("jax") else None


def _first_device() -> Any:
    """Return JAX's first device.

    Raises:
        FlowersError: there is an accelerator which cannot be used, such as a TPU that another process holds.
    """
    import jax

    try:
        return jax.devices()[0]
    except RuntimeError as error:
        raise FlowersError(
            f"the accelerator cannot be used ({str(error).splitlines()[0]}); a TPU serves one process at a time: end "
            "other notebooks that use it, then restart this one; if there are none, begin a new session"
        ) from None


# Of TensorFlow's gs:// file system (tsl/platform/cloud/gcs_file_system.cc).
STORAGE_DEFAULTS = {
    "GCS_RETRY_CONFIG_MAX_RETRIES": "4",  # after 1, 2, 4 and 8 s, and up to a second each; instead of 10, in 3 minutes
    "GCS_REQUEST_CONNECTION_TIMEOUT_SECS": "20",  # instead of 120 s
    "GCS_REQUEST_IDLE_TIMEOUT_SECS": "30",  # of silence, instead of 60 s
}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_bound_waiting_for_storage()
if platform.machine() == "x86_64":  # TensorFlow asks for AVX-512 first; with AVX2 it pays too: 1.2 to 1.8 times as fast
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["KERAS_BACKEND"] = _choose_backend()
with suppress_native_stderr(), _without_scikit_learn():
    import keras  # it reads KERAS_BACKEND now, and never again
    import tensorflow as tf
tf.get_logger().setLevel("WARNING")  # looking for a TPU is announced, finding none is not news
if keras.backend.backend() == "jax":
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads images here: all GPU memory is JAX's

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
TENSOR_CORES = (7, 0)  # compute capability of the first GPUs with matrix units: V100, T4; they compute in float16
BFLOAT16_CORES = (8, 0)  # and of the first whose matrix units compute in bfloat16 too: A100, L4, H100
XLA_CACHE_BYTES = 4 * 2**30  # bytes of compiled programs that are kept, of those used last


@dataclass(frozen=True)
class Device:
    """What the networks run on.

    Attributes:
        kind: `tpu`, `gpu` or `cpu`.
        name: the maker's name for one of them.
        num_replicas: how many process a part of every batch each; the global batch size must be a multiple of it.
        backend: the Keras backend that drives them.
        policy: Keras' policy for it, which says in what precision networks compute.
    """

    kind: str
    name: str
    num_replicas: int
    backend: str
    policy: str = "float32"
    strategy: "tf.distribute.Strategy | None" = field(default=None, repr=False)

    def scope(self) -> AbstractContextManager:
        """Return the context in which a model is built and compiled, so that its variables live on every replica."""
        return self.strategy.scope() if self.strategy else nullcontext()

    @property
    def slug(self) -> str:
        """A name for files, such as `8x-tpu-v5-lite`."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.num_replicas}x {self.name}".lower()).strip("-")

    def __str__(self) -> str:
        software = f"Keras {keras.__version__} on {self.backend}, {self.policy}"
        return f"{self.num_replicas} x {self.kind.upper()} ({self.name}), {software}"


def setup() -> Device:
    """Take hold of every device, once, before the first model is built.

    This also sets Keras' policy, as `best_policy` says for the device, or as `FLOWERS_PRECISION` does.

    Raises:
        FlowersError: `FLOWERS_EXPECT` is no kind of device, or asks for another than the one found. A TPU job that
            landed on a CPU should stop in seconds, not crawl for hours. Or `FLOWERS_PRECISION` is no policy.
    """
    if keras.backend.backend() != os.environ["KERAS_BACKEND"]:
        raise FlowersError(
            f"Keras was imported before flowerlib and runs on {keras.backend.backend()}; "
            "restart the kernel and import flowerlib.accelerator first"
        )
    device = _jax_device() if keras.backend.backend() == "jax" else _tensorflow_device()
    expected = os.environ.get("FLOWERS_EXPECT") or device.kind
    if expected not in ("tpu", "gpu", "cpu"):
        raise FlowersError(f"`FLOWERS_EXPECT` (={expected}) must be tpu, gpu or cpu, or unset to take what is there")
    if expected != device.kind:
        raise FlowersError(
            f"`FLOWERS_EXPECT` (={expected}) asks for that kind of device but only {device} is here; "
            "choose the accelerator in the notebook's settings, or unset FLOWERS_EXPECT"
        )
    policy = os.environ.get("FLOWERS_PRECISION") or device.policy
    if policy not in POLICIES:
        raise FlowersError(f"`FLOWERS_PRECISION` (={policy}) must be one of {', '.join(POLICIES)}, or unset")
    keras.config.set_dtype_policy(policy)
    return replace(device, policy=policy)


def best_policy(kind: str, compute_capability: tuple[int, ...] = ()) -> str:
    """Return Keras' policy for a kind of device; for a GPU by its compute capability, such as (7, 5) for a T4.

    A TPU and GPUs from the A100 on compute bfloat16 in their matrix units, which has float32's range. GPUs before them
    have float16 only; Keras scales the loss, so that small gradients do not vanish. Others are no faster so.
    """
    if kind == "tpu" or compute_capability >= BFLOAT16_CORES:
        return "mixed_bfloat16"
    return "mixed_float16" if compute_capability >= TENSOR_CORES else "float32"


def _capability(version: str) -> tuple[int, ...]:
    """Read a compute capability such as `7.5`; empty for what other makers than NVIDIA call their GPUs."""
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+\.\d+", version) else ()


def _jax_device() -> Device:
    import jax

    first, devices = _first_device(), jax.devices()
    if len(devices) > 1:
        # auto_shard_dataset would give each *process* its part of the files; here one process feeds all devices.
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    kind = first.platform
    if kind != "cpu":  # which differ from machine to machine, and compile in little time what is run on them
        enable_compilation_cache()
    name = cpu_name() if kind == "cpu" else first.device_kind
    policy = best_policy(kind, _capability(str(getattr(first, "compute_capability", ""))))
    return Device(kind, name, len(devices), "jax", policy)


def enable_compilation_cache() -> None:
    """Have JAX keep compiled programs on disk, for the next process: the large networks take minutes to compile.

    In `xla` in `config.cache_dir()`, at most 4 GiB where `filelock` is installed, which JAX needs to count them; or
    where and as many as JAX's own settings say.
    """
    import jax

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"]:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    if importlib.util.find_spec("filelock") and settings["jax_compilation_cache_max_size"] == -1:
        jax.config.update("jax_compilation_cache_max_size", XLA_CACHE_BYTES)
        for program in (cache_dir() / "xla").glob("*-cache"):  # kept without a limit: JAX would stumble over it
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
                program.unlink()


def _tensorflow_device() -> Device:
    if strategy := _tpu_strategy():
        return Device("tpu", "TPU", strategy.num_replicas_in_sync, "tensorflow", best_policy("tpu"), strategy)
    gpus = tf.config.list_physical_devices("GPU")
    kind, details = ("gpu", tf.config.experimental.get_device_details(gpus[0])) if gpus else ("cpu", {})
    devices = tf.config.list_logical_devices(kind.upper())
    strategy = tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else None
    name = details.get("device_name", "GPU") if gpus else cpu_name()
    policy = best_policy(kind, details.get("compute_capability", ()))
    return Device(kind, name, len(devices), "tensorflow", policy, strategy)


def _tpu_strategy() -> "tf.distribute.TPUStrategy | None":
    """Return a strategy over the TPU that this TensorFlow can drive itself (Cloud TPU VMs, older Kaggle images)."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.OpError):
        return None


def cpu_name() -> str:
    """Return the processor's name and how many cores it has."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
