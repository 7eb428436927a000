"""Read the weights files of Keras 2, in which all big networks are still published; fill a network to the last array.

Keras itself skips, by name, whatever does not fit. Here anything that does not fit is an error.
"""

from itertools import count, takewhile
from pathlib import Path

import h5py
import numpy as np

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError

# (name, arrays in the order of the layer's `weights`) of each layer of a weights file.
Layers = list[tuple[str, list[np.ndarray]]]

CLASSIFIER = "predictions"  # the ImageNet head's layer in a weights file; the one layer that may stay unused


def load_strictly(network: keras.Model, layers: Layers, *, by_name: bool, source: Path) -> None:
    """Fill every array of `network` from `layers`, the (name, arrays) of the file `source`.

    Layers go by name, or else by their order in network and file. Of the file only `CLASSIFIER` may stay unused.

    Raises:
        FlowersError: an array is missing, of another shape, or left over.
    """
    empty = {layer.name: layer for layer in network.layers if layer.weights}
    for name, arrays in layers:
        target = empty.pop(name if by_name else next(iter(empty), ""), None)
        if target is not None:
            _load_layer(target, arrays, f"layer {name} of {source}")
        elif name != CLASSIFIER:
            raise FlowersError(f"{source} has a layer {name} that has no place in {network.name}: not its weights")
    if empty:
        first = next(iter(empty))
        raise FlowersError(f"{source} lacks {len(empty)} layers of {network.name}, {first} the first: not its weights")


def _load_layer(layer: keras.Layer, arrays: list[np.ndarray], where: str) -> None:
    expected = [tuple(variable.shape) for variable in layer.weights]
    found = [array.shape for array in arrays]
    if found != expected:
        raise FlowersError(f"{where} has arrays of shapes {found}, but {layer.name} needs {expected}: not its weights")
    for variable, array in zip(layer.weights, arrays, strict=True):
        variable.assign(array)


def read_h5(path: Path) -> Layers:
    """Read the layers of a Keras 2 weights file, in the file's order; those without arrays are left out.

    Raises:
        FlowersError: the file is not whole, or lacks an array that it lists.
    """
    try:
        with h5py.File(path) as file:
            root = file if _attribute(file, "layer_names") else file["model_weights"]
            names = {layer: _attribute(root[layer], "weight_names") for layer in _attribute(root, "layer_names")}
            return [(layer, [_array(root[layer], name) for name in names[layer]]) for layer in names if names[layer]]
    except (OSError, KeyError) as error:
        raise FlowersError(f"{path} is not a whole Keras weights file: {error}") from error


def _array(group: h5py.Group, name: str) -> np.ndarray:
    if name not in group:
        raise KeyError(f"layer {group.name} lacks {name}")
    return group[name][()]


def _attribute(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names; one too long for HDF5 is kept in parts, `name` + 0, 1, ..."""
    numbered = (f"{name}{index}" for index in count())
    parts = [name] if name in group.attrs else takewhile(group.attrs.__contains__, numbered)
    return [text.decode() if isinstance(text, bytes) else text for part in parts for text in group.attrs[part]]
