"""Weights files in the form of OpenL3's, with random numbers in them: the published ones are not at hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from model_export.openl3 import layer_shapes
from model_export.openl3_weights import Layer

# What a test does to the layers, by name, before they are written.
Change = Callable[[list[tuple[str, list[Any]]]], object]
NORMALIZATION = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
CONVOLUTION = ("kernel:0", "bias:0")


def random_layers(seed: int = 0) -> list[Layer]:
    """Arrays such as training leaves: the spectrogram is brought to around 0, and no layer dies or bursts."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for shapes in layer_shapes():
        n = shapes[-1][0]
        if len(shapes) == 2:
            deviation = np.sqrt(2.0 / np.prod(shapes[0][:3]))
            arrays = [rng.normal(0.0, deviation, shapes[0]), rng.normal(0.0, 0.1, n)]
        elif not layers:
            arrays = [np.full(n, 1.1), np.full(n, 0.1), np.full(n, -40.0), np.full(n, 300.0)]
        else:
            arrays = [
                rng.uniform(0.7, 1.3, n),
                rng.normal(0.0, 0.2, n),
                rng.normal(0.0, 0.2, n),
                rng.uniform(0.6, 1.5, n),
            ]
        layers.append(tuple(array.astype(np.float32) for array in arrays))
    return layers


def named(layers: Sequence[Layer]) -> list[tuple[str, list[Any]]]:
    """Each layer with a name as Keras gives it inside a larger model; the numbers say nothing about the order."""
    rng = np.random.default_rng(1)
    numbers = iter(rng.permutation(len(layers)))
    found = [
        (f"{'conv2d' if len(layer) == 2 else 'batch_normalization'}_{next(numbers)}", list(layer)) for layer in layers
    ]
    found[-1] = ("audio_embedding_layer", found[-1][1])
    return [("input_1", []), *found[:1], ("activation_7", []), *found[1:], ("max_pooling2d_9", [])]


def write_h5(
    file: Path, layers: Sequence[tuple[str, Sequence[Any]]], *, group: str = "/", kind: type[Any] = bytes
) -> Path:
    """Write layers as Keras 2 did; `kind` is that of the names in the attributes, bytes or str."""

    def attribute(names: Sequence[str]) -> Any:  # noqa: ANN401  h5py takes either
        return np.array([name.encode() for name in names], "S64") if kind is bytes else list(names)

    with h5py.File(file, "w") as opened:
        root = opened.require_group(group)
        root.attrs["layer_names"] = attribute([name for name, _ in layers])
        root.attrs["backend"] = b"tensorflow"
        for name, arrays in layers:
            known = {2: CONVOLUTION, 4: NORMALIZATION}.get(len(arrays), ())
            names = [f"{name}/{known[n] if n < len(known) else f'variable_{n}:0'}" for n in range(len(arrays))]
            layer = root.create_group(name)
            layer.attrs["weight_names"] = attribute(names) if names else np.zeros(0)
            for weight, array in zip(names, arrays, strict=True):
                layer.create_dataset(weight, data=array)
    return file
