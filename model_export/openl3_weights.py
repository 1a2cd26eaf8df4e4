"""Weights of OpenL3 from an HDF5 file, as its authors publish it and as training left it.

In: `.h5` or `.h5.gz`. Out: the arrays of the sixteen layers, in order. Layers have the numbers of whichever model they
were trained in (`conv2d_8`, `batch_normalization_10`): they are matched by order and shapes, not by name.

Known forms: weights alone, with the layer of the spectrogram first (v0_2_0) or without it (v0_4_0); a whole Keras
model, with the weights in its group `model_weights`; a checkpoint of training, with one normalization more at its end.
"""

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from agent.errors import ModelError
from agent.values import FloatArray
from model_export.openl3 import layer_shapes

MAX_BYTES = 512 * 2**20  # of an unpacked file; the largest known has 70 MiB
WHOLE_MODEL = "model_weights"
SPECTROGRAM = "spectrogram"  # in the name of a layer that computes one
GZIP = b"\x1f\x8b"
N_OF_NORMALIZATION = 4  # arrays: scale, offset, mean, variance

Layer = tuple[FloatArray, ...]


def read_weights(file: Path) -> list[Layer]:
    """Read the arrays of each layer, shapes as in `openl3.layer_shapes`.

    Raises:
        ModelError: the file cannot be read, is not HDF5, or does not hold the network of OpenL3.
    """
    content = _unpacked(file)
    try:
        with h5py.File(io.BytesIO(content), "r") as opened:
            return _of_the_network(file, _layers(file, opened.get(WHOLE_MODEL, opened)))
    except (OSError, RuntimeError) as error:  # damaged, at its beginning or further on
        raise ModelError(f"weights file {file}: is not HDF5, or damaged ({_one_line(error)})") from error


def _unpacked(file: Path) -> bytes:
    try:
        with file.open("rb") as packed:
            is_packed = packed.read(len(GZIP)) == GZIP
        with gzip.open(file) if is_packed else file.open("rb") as opened:
            content: bytes = opened.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ModelError(f"weights file {file}: damaged gzip ({_one_line(error)})") from error
    except OSError as error:
        raise ModelError(f"weights file {file}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ModelError(f"weights file {file}: has more than {MAX_BYTES} bytes, expected some 20 million")
    return content


def _layers(file: Path, root: h5py.Group) -> list[tuple[str, list[h5py.Dataset]]]:
    """Name and arrays, not read yet, of each layer that has any and is not a spectrogram's."""
    layers = []
    for name in _names(file, root, "layer_names"):
        group = _member(file, root, name, h5py.Group)
        arrays = [_member(file, group, weight, h5py.Dataset) for weight in _names(file, group, "weight_names")]
        if arrays and SPECTROGRAM not in name:
            layers.append((name, arrays))
    return layers


def _names(file: Path, group: h5py.Group, attribute: str) -> list[str]:
    if attribute not in group.attrs:
        raise ModelError(
            f"weights file {file}: {group.name} has no {attribute}, expected weights that Keras saved as HDF5"
        )
    names = np.atleast_1d(group.attrs[attribute]).tolist()
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def _member(file: Path, group: h5py.Group, name: str, kind: type[Any]) -> Any:  # noqa: ANN401  h5py has no types
    member = group.get(name)
    if not isinstance(member, kind):
        raise ModelError(f"weights file {file}: {group.name} names {name}, expected it in there")
    return member


def _of_the_network(file: Path, layers: Sequence[tuple[str, Sequence[h5py.Dataset]]]) -> list[Layer]:
    expected = layer_shapes()
    after_the_last = (expected[-1][-1],) * N_OF_NORMALIZATION
    if len(layers) == len(expected) + 1 and _shapes(layers[-1][1]) == after_the_last:
        layers = layers[:-1]  # what followed the embedding in training
    for number, ((name, arrays), shapes) in enumerate(zip(layers, expected, strict=False), start=1):
        if _shapes(arrays) != shapes:
            raise ModelError(
                f"weights file {file}: layer {number}, {name}, has arrays of {_said(_shapes(arrays))}, "
                f"expected {_said(shapes)}"
            )
    if len(layers) != len(expected):
        raise ModelError(
            f"weights file {file}: layers with weights: {len(layers)}, expected the {len(expected)} of OpenL3's audio "
            "network"
        )
    read = [tuple(_numbers(file, name, array) for array in arrays) for name, arrays in layers]
    for (name, _), layer in zip(layers, read, strict=True):
        if len(layer) == N_OF_NORMALIZATION and layer[-1].min() < 0.0:
            raise ModelError(f"weights file {file}: {name} has a variance of {layer[-1].min()}, expected 0 or more")
    return read


def _numbers(file: Path, name: str, array: h5py.Dataset) -> FloatArray:
    if array.dtype.kind != "f":
        raise ModelError(f"weights file {file}: {name} holds {array.dtype}, expected floating point numbers")
    numbers = np.asarray(array, np.float32)
    if not np.isfinite(numbers).all():
        raise ModelError(f"weights file {file}: {name} holds what is no number, expected finite ones")
    return numbers


def _shapes(arrays: Sequence[h5py.Dataset]) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape or () for array in arrays)  # None: it has no data


def _said(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) or "one number" for shape in shapes)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
