"""Trace the long steps of a notebook for an accelerator that is not here.

Run as a process of its own, with Keras on JAX: `python -m flowerlib.kaggle.tracing NOTEBOOK ACCELERATOR OUT [compile]`.
The notebook is executed at its full settings up to its first long step (training, or feature extraction). Instead of
being computed that step is traced, lowered to what the accelerator's compiler gets, and described in the JSON file OUT.
With `compile` a TPU's own compiler, libtpu, compiles it too; it needs no TPU for that.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from jax.experimental import topologies

from flowerlib import accelerator, networks, training
from flowerlib.accelerator import Device, keras, tf
from flowerlib.config import FlowersError, atomic_write
from flowerlib.kaggle import program
from flowerlib.kaggle.chips import CHIPS, Chips
from flowerlib.training.run import Run

PREFETCHED = 2  # batches that wait on the device while a step computes
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in messages of Keras
Spec = jax.ShapeDtypeStruct


@dataclass
class Step:
    """One program of a notebook; all bytes are those of one chip.

    Attributes:
        name: such as `training, 512 px`.
        batch: images of a step, over all chips.
        weights: bytes of the model's variables.
        optimizer: bytes of the optimizer's variables.
        gradients: bytes of the trained variables' gradients.
        inputs: bytes of the batches that are on the device.
        activations: bytes of all that is computed in between, an estimate.
        compiled: bytes of all but the inputs that wait, as the compiler counts them; 0 where it was not asked.
        problems: what keeps it from running well.
    """

    name: str
    batch: int
    weights: int = 0
    optimizer: int = 0
    gradients: int = 0
    inputs: int = 0
    activations: int = 0
    compiled: int = 0
    problems: list[str] = field(default_factory=list)


class Reached(Exception):
    """A notebook has come to its first long step, which has been traced."""


class Tracer:
    """Trace steps for a kind of chips.

    Args:
        chips: what they will run on.
        compiles: whether libtpu compiles them.
    """

    def __init__(self, chips: Chips, *, compiles: bool = False) -> None:
        self.chips, self.compiles = chips, compiles
        self.steps: list[Step] = []

    def fit(self, run: Run, model: keras.Model, train: Callable[..., tf.data.Dataset], *_: Any, **__: Any) -> None:
        """Trace what `training.fit` would compute: training steps, and predictions in every size."""
        self._train(model, train(start=0), run.device)
        config = run.config
        sizes = config.tta_sizes or (config.eval_size or config.image_size,)
        self._predict(networks.fold_batch_norm(model), sizes, config.eval_batch_size)
        raise Reached

    def time_epochs(self, run: Run, model: keras.Model, train: Callable[..., tf.data.Dataset]) -> None:
        """Trace what `training.time_epochs` would compute."""
        self._train(model, train(start=0), run.device)
        raise Reached

    def extract_features(self, run: Run, feature_extractor: keras.Model) -> None:
        """Trace what `training.extract_features` would compute."""
        batch = run.config.extract_batch_size * run.device.num_replicas
        self._predict(networks.fold_batch_norm(feature_extractor), (run.config.image_size,), batch)
        raise Reached

    def keras_fit(self, model: keras.Model, x: Any = None, *_: Any, **__: Any) -> None:
        """Trace what `model.fit` would compute, for a notebook that trains without `training.fit`.

        Raises:
            FlowersError: it gets something else than a `tf.data.Dataset`.
        """
        if not isinstance(x, tf.data.Dataset):
            raise FlowersError(f"`model.fit` gets a {type(x).__name__}; only a tf.data.Dataset can be traced")
        self._train(model, x, accelerator.setup())
        raise Reached

    def _train(self, model: keras.Model, batches: tf.data.Dataset, device: Device) -> None:
        images, *others = batches.element_spec
        step = self._step("training", images.shape)
        if step.problems:
            return
        if keras.config.is_flash_attention_enabled() is not False and any(map(_attends, _layers(model))):
            step.problems.append(
                "attention, which Keras gives to a Pallas kernel on a TPU, and Kaggle's libtpu does not run; call "
                "keras.config.disable_flash_attention() first"
            )
        with training.prepared(model, batches, device):
            parts = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
            state = *map(_specs, parts), _specs(model.metrics_variables)
            step.optimizer = _bytes(state[2])
            step.gradients = _bytes(state[0])
            self._trace(step, model.train_step, state, (images, *others), donate=True)

    def _predict(self, model: keras.Model, sizes: Iterable[int], batch: int) -> None:
        for size in dict.fromkeys(sizes):
            step = self._step("prediction", (batch, size, size, 3))
            if not step.problems:
                state = _specs(model.trainable_variables), _specs(model.non_trainable_variables)

                def forward(state: tuple, data: tuple) -> Any:
                    return model.stateless_call(*state, *data, training=False)[0]

                self._trace(step, forward, state, (tf.TensorSpec((batch, size, size, 3), tf.uint8),))

    def _step(self, kind: str, shape: Iterable[int | None]) -> Step:
        """Begin a step, with what its images `(B, S, S, 3)` tell of it."""
        batch, *sides = shape
        step = Step(f"{kind}, {sides[0]} px", batch or 0)
        self.steps.append(step)
        if batch is None or None in sides:
            step.problems.append(
                f"batches of no fixed shape, {(batch, *sides)}, for each of which XLA compiles anew, for minutes; "
                "make them with drop_remainder=True, of images of one size"
            )
        elif batch % self.chips.count:
            step.problems.append(f"a batch of {batch} images cannot be divided among {self.chips.count} chips")
        return step

    def _trace(self, step: Step, function: Callable, state: tuple, batch: tuple, *, donate: bool = False) -> None:
        """Fill in what a step needs: `function(state, batch)`, on one chip's share and on all chips together."""
        share = tuple(Spec((each.shape[0] // self.chips.count, *each.shape[1:]), each.dtype.name) for each in batch)
        traced = jax.make_jaxpr(function)(state, share)
        step.weights = _bytes(state[:2])
        step.inputs = PREFETCHED * _bytes(share)
        step.activations = program.peak_bytes(traced)
        step.problems += program.problems(traced)
        if step.problems:
            return
        mesh = jax.sharding.Mesh(np.array(self._devices()), ("batch",))
        everywhere, divided = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))
        state = jax.tree.map(lambda each: Spec(each.shape, each.dtype, sharding=everywhere), state)
        whole = tuple(Spec(tuple(each.shape), each.dtype.name, sharding=divided) for each in batch)
        try:
            program_of_all = jax.jit(function, donate_argnums=0 if donate else ()).trace(state, whole)
            if self.compiles:
                step.compiled = _program_bytes(program_of_all.lower().compile().memory_analysis())
            else:
                program_of_all.lower(lowering_platforms=(self.chips.platform,))
        except Exception as error:  # of whatever kind: JAX's own, or one of what the step is made of
            step.problems.append(f"cannot be compiled for {self.chips.platform}: {_line(error)}")

    def _devices(self) -> list:
        """Return the chips as libtpu describes them, or virtual ones of this CPU in their place."""
        if self.compiles and self.chips.topology:
            return topologies.get_topology_desc(self.chips.topology, platform="tpu").devices
        return jax.devices()


def _program_bytes(memory: Any) -> int:
    """Return what a compiled program takes, of what the compiler tells: a donated input is an output's place too."""
    sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return sum(sizes) + memory.generated_code_size_in_bytes - memory.alias_size_in_bytes


def _line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(COLOURS.sub("", str(error)).split())


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model and of the models in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _attends(layer: keras.Layer) -> bool:
    return isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention))


def _specs(variables: Iterable[keras.Variable]) -> list[Spec]:
    return [Spec(tuple(each.shape), each.dtype) for each in variables]


def _bytes(specs: Any) -> int:
    return sum(each.size * each.dtype.itemsize for each in jax.tree.leaves(specs))


def _install(tracer: Tracer) -> None:
    """Have a notebook's long steps traced, on chips that are not there, with networks that need no weights files."""
    chips = tracer.chips
    policy = accelerator.best_policy(chips.kind, chips.capability)
    keras.config.set_dtype_policy(policy)
    device = Device(chips.kind, chips.name, chips.count, "jax", policy)
    vars(accelerator).update(setup=lambda: device)
    vars(networks).update(load=lambda name, image_size, weights="pretrained": networks.build(name, image_size))
    vars(training).update(fit=tracer.fit, time_epochs=tracer.time_epochs, extract_features=tracer.extract_features)
    keras.Model.fit = lambda model, *arguments, **options: tracer.keras_fit(model, *arguments, **options)


def execute(notebook: Path, tracer: Tracer) -> str | None:
    """Execute a notebook's code up to its first long step; return where it stopped with an error, if it did."""
    _install(tracer)
    shell = InteractiveShell.instance()
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            result = shell.run_cell("".join(cell["source"]))
            error = result.error_before_exec or result.error_in_exec
            if isinstance(error, Reached):
                return None
            if error:
                return f"cell {number} stops with {type(error).__name__}: {_line(error)}"
    return None


def main(notebook: str, chips: str, out: str, *options: str) -> None:
    """Trace a notebook and write what was found, `steps` and `error`, as JSON."""
    tracer = Tracer(CHIPS[chips], compiles="compile" in options)
    error = execute(Path(notebook), tracer)
    with atomic_write(Path(out)) as temporary:
        temporary.write_text(json.dumps({"steps": [asdict(step) for step in tracer.steps], "error": error}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
