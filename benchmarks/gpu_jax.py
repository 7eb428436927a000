"""Compile and time one network's steps with Keras on JAX, on one device: `gpu_jax NETWORK SECONDS '{"512": 16}'`.

A process of its own, so that JAX is the backend and has the memory. It prints JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.harness import rate
from flowerlib import networks
from flowerlib.accelerator import POLICIES, keras
from flowerlib.networks import backbones

TRAINED = ("DenseNet201",)  # the others are frozen
CLASSES = 104


def compiled(lowered: Any) -> tuple[Any, float]:
    """Compile a program; return it and the seconds that took."""
    began = time.perf_counter()
    return lowered.compile(), time.perf_counter() - began


def training(model: keras.Model, images: np.ndarray) -> tuple[Any, tuple]:
    """Return a training step as Keras takes it, lowered, and its arguments."""
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    labels = np.eye(CLASSES, dtype="float32")[np.arange(len(images)) % CLASSES]
    model.evaluate(images[:1], labels[:1], verbose=0)  # makes the variables of metrics
    model.optimizer.build(model.trainable_variables)
    parts = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables
    state = tuple([variable.value for variable in part] for part in parts)
    batch = jax.device_put((images, labels))
    return jax.jit(model.train_step, donate_argnums=0).lower(state, batch), (state, batch)


def prediction(model: keras.Model, images: np.ndarray) -> tuple[Any, tuple]:
    """Return a prediction with batch norm folded, as flowerlib predicts, lowered, and its arguments."""
    folded = networks.fold_batch_norm(model)
    state = [[each.value for each in part] for part in (folded.trainable_variables, folded.non_trainable_variables)]

    def forward(state: list, images: jax.Array) -> jax.Array:
        return folded.stateless_call(*state, images, training=False)[0]

    return jax.jit(forward).lower(state, jax.device_put(images)), (state, jax.device_put(images))


def network(name: str, size: int) -> keras.Model:
    """Return a network with a head, of random weights."""
    pooling = keras.layers.GlobalAveragePooling2D(dtype="float32")
    layers = [*backbones.build(name, size).layers, pooling, networks.head(CLASSES)]
    return keras.Sequential([keras.Input((size, size, 3)), *layers])


def stepping(program: Any, arguments: tuple) -> Callable[[], Any]:
    """Return a function that takes a step, from where the last one came to where it is one of training."""
    state, *rest = arguments

    def step() -> Any:
        nonlocal state
        out = program(state, *rest)
        if isinstance(out, tuple):  # of training: logs, state
            out, state = out
        return out

    return step


def measure(name: str, seconds: float, batches: dict[int, int]) -> dict[str, float]:
    """Return what was found within the seconds: all programs are compiled side by side, then timed one by one."""
    end, found = time.monotonic() + seconds, {}
    pool = ThreadPoolExecutor(os.cpu_count())  # not as a context: that would wait for all at its end
    steps = [
        (f"{size} px, {policy}", kind.__name__, batch, arguments, pool.submit(compiled, lowered))
        for size, batch in batches.items()
        for policy in POLICIES
        for kind, lowered, arguments in programs(name, size, batch, policy)
    ]
    for case, kind, batch, arguments, future in steps:
        try:
            program, took = future.result(max(end - time.monotonic(), 0))
        except TimeoutError:
            continue
        memory = program.memory_analysis()
        taken = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        found |= {f"{case}: compiling {kind}": took, f"{case}: memory of {kind}": taken / 2**30}
        found[f"{case}: {kind}"] = rate(stepping(program, arguments), jax.block_until_ready, batch)
    return found


def programs(name: str, size: int, batch: int, policy: str) -> Iterator[tuple[Callable, Any, tuple]]:
    """Yield the steps of a network that is built anew in a precision, lowered, with their arguments."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), "uint8")
    keras.config.set_dtype_policy(policy)
    model = network(name, size)
    for kind in (prediction, training) if name in TRAINED else (prediction,):
        yield kind, *kind(model, images)


if __name__ == "__main__":
    name, seconds, batches = sys.argv[1:]
    found = measure(name, float(seconds), {int(size): batch for size, batch in json.loads(batches).items()})
    print(json.dumps({"device": jax.devices()[0].device_kind, "found": found}), flush=True)
    os._exit(0)  # what is still being compiled is of no use
