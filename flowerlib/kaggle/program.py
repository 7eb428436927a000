"""What a traced JAX program does that a TPU does badly or not at all, and how much memory its values take at once."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal, Var

# Primitives whose inputs and outputs are in memory; XLA fuses the others, which pass over a value once, into what reads
# or writes it.
IN_MEMORY = re.compile(
    r"conv_|dot_|reduce_(?!precision)|select_and_|cum|arg(min|max)|sort|top_k|gather|scatter|concatenate|dynamic_|while|"
    r"scan|cond|fft|pallas|.*callback"
)
IMAGE_DIMS = 3  # that a value has at least which holds images or maps of features


@dataclass(frozen=True)
class Operation:
    """One primitive of a program: its name, what it reads and what it writes; literals are left out."""

    name: str
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]


def problems(program: ClosedJaxpr) -> list[str]:
    """Return what a program does that a TPU does badly, one line each, with the remedy."""
    found = []
    for equation in _equations(program.jaxpr):
        name = equation.primitive.name
        if "callback" in name or name == "debug_print":
            found.append(f"`{name}` calls Python on the host in every step; compute with keras.ops, and print outside")
        if name == "pallas_call":
            found.append(
                "a Pallas kernel, which Kaggle's libtpu does not run; use keras.config.disable_flash_attention()"
            )
        if name == "gather" and len(equation.invars[0].aval.shape) >= IMAGE_DIMS:
            shape = tuple(equation.invars[0].aval.shape)
            found.append(f"a gather over images {shape}, which is slow on Kaggle's TPU; use slices, or a product")
    return list(dict.fromkeys(found))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program and of all programs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inner(equation):
            yield from _equations(inner)


def _inner(equation: Any) -> Iterator[Any]:
    """Yield the programs that an equation carries, such as the body of a loop."""
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each


def operations(program: ClosedJaxpr) -> tuple[list[Operation], list[Var]]:
    """Return a program's operations in their order, those of programs that it calls in their place, and its outputs.

    The bodies of loops and branches are not looked into.
    """
    made: list[Operation] = []
    outputs = _inlined(program.jaxpr, {}, made)
    return made, [each for each in outputs if each is not None]


def _inlined(jaxpr: Any, names: dict[Var, Var | None], made: list[Operation]) -> list[Var | None]:
    """Append a program's operations; `names` maps its variables to those of the program around it."""

    def named(atom: Var | Literal) -> Var | None:
        return None if isinstance(atom, Literal) else names.get(atom, atom)

    for equation in jaxpr.eqns:
        inputs = [named(atom) for atom in equation.invars]
        called = list(_inner(equation))
        if (
            len(called) == 1
            and len(called[0].invars) == len(inputs)
            and equation.primitive.name not in ("scan", "while")
        ):
            outputs = _inlined(called[0], dict(zip(called[0].invars, inputs, strict=True)), made)
            names |= dict(zip(equation.outvars, outputs, strict=True))
        else:
            made.append(Operation(equation.primitive.name, tuple(filter(None, inputs)), tuple(equation.outvars)))
    return [named(atom) for atom in jaxpr.outvars]


def peak_bytes(program: ClosedJaxpr) -> int:
    """Estimate the bytes of the values that are in memory at once, without the program's inputs.

    What a convolution, a product, a reduction or the like writes is in memory from when it is made until it is read
    last. What passes over a value once is taken to be fused into what reads it, and computed again where it is read
    again. XLA's own order, copies and padding are not known here.
    """
    made, outputs = operations(program)
    sources: dict[Var, frozenset[Var]] = {}  # of what is not in memory: what it is computed from
    born: dict[Var, int] = {}
    last: dict[Var, int] = {}
    for time, operation in enumerate(made):
        read = frozenset[Var]().union(*(sources.get(each, {each}) for each in operation.inputs))
        if IN_MEMORY.match(operation.name):
            last |= dict.fromkeys(read, time)
            born |= dict.fromkeys(operation.outputs, time)
        else:
            sources |= dict.fromkeys(operation.outputs, read)
    for each in outputs:
        last |= dict.fromkeys(sources.get(each, {each}), len(made))
    inputs = set(program.jaxpr.invars)
    return _peak({each: (start, last.get(each, start)) for each, start in born.items() if each not in inputs})


def _peak(lives: dict[Var, tuple[int, int]]) -> int:
    """Return the most bytes at one time of values of which the first and the last time is known."""
    changes: dict[int, int] = {}
    for value, (first, end) in lives.items():
        array: Any = value.aval
        size = math.prod(array.shape) * array.dtype.itemsize
        changes[first] = changes.get(first, 0) + size
        changes[end + 1] = changes.get(end + 1, 0) - size
    total = most = 0
    for time in sorted(changes):
        total += changes[time]
        most = max(most, total)
    return most
