"""The network of OpenL3: its shapes, its numbers, and what it computes, against plain numpy."""

from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from agent.values import FloatArray
from model_export import openl3, openl3_network
from model_export.openl3 import REPRESENTATIONS, SIZES, Representation, Size, front_end, layer_shapes
from model_export.openl3_network import LAST_CONVOLUTION, set_weights
from model_export.openl3_weights import Layer, read_weights
from tests.model_export.openl3_files import random_layers

MAPS = {"linear": (257, 197), "mel128": (128, 199), "mel256": (256, 199)}
FEW = (2, 3, 3, 4)


@pytest.fixture
def few_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with few filters."""
    monkeypatch.setattr(openl3, "FILTERS", FEW)
    monkeypatch.setattr(openl3_network, "FILTERS", FEW)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_the_network_has_the_papers_shapes_and_counts(representation: Representation, size: Size) -> None:
    """4 689 860 parameters, 4 687 042 of them trainable, for each representation; the weights' shapes in order."""
    numbers = front_end(representation)
    assert (numbers.n_mels, numbers.n_frames) == MAPS[representation]

    network = openl3_network.openl3_network(numbers.n_mels, numbers.n_frames, size)

    assert network.input_shape == (None, *MAPS[representation], 1)
    assert network.output_shape == (None, size)
    rows = 16 if representation == "mel128" else 32
    assert network.get_layer(LAST_CONVOLUTION).output.shape == (None, rows, 24, 512)
    assert network.count_params() == 4_689_860
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == 4_687_042
    weighted = [tuple(tuple(one.shape) for one in layer.weights) for layer in network.layers if layer.weights]
    assert weighted == layer_shapes()


def by_the_book(window: FloatArray, layers: list[Layer], size: Size) -> NDArray[np.float64]:
    """The embedding of a window (n_bands, n_frames), step by step in float64."""

    def normalized(maps: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
        scale, offset, mean, variance = (array.astype(np.float64) for array in layer)
        answer: NDArray[np.float64] = (maps - mean) / np.sqrt(variance + 1e-3) * scale + offset
        return answer

    def convolved(maps: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
        kernel, bias = (array.astype(np.float64) for array in layer)
        sums = [
            sum(signal.correlate2d(maps[..., i], kernel[..., i, o], mode="same") for i in range(maps.shape[-1]))
            for o in range(len(bias))
        ]
        return np.stack(sums, axis=-1) + bias

    def pooled(maps: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        rows, columns = maps.shape[0] // height, maps.shape[1] // width  # what is left over is dropped
        cut = maps[: rows * height, : columns * width]
        largest: NDArray[np.float64] = cut.reshape(rows, height, columns, width, -1).max(axis=(1, 3))
        return largest

    maps = normalized(window[..., None].astype(np.float64), layers[0])
    for number in range(1, 15, 2):
        maps = np.maximum(normalized(convolved(maps, layers[number]), layers[number + 1]), 0.0)
        if number in {3, 7, 11}:
            maps = pooled(maps, 2, 2)
    maps = convolved(maps, layers[15])
    kept_rows, kept_columns = (1, 1) if size == 512 else (4, 3)
    return pooled(maps, maps.shape[0] // kept_rows, maps.shape[1] // kept_columns).ravel()


@pytest.mark.usefixtures("few_filters")
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_the_network_computes_what_the_layers_say(representation: Representation) -> None:
    """With few filters and random weights the embedding is that of plain numpy, also where values are negative."""
    layers, numbers = random_layers(), front_end(representation)
    rng = np.random.default_rng(2)
    window = rng.uniform(-80.0, 0.0, MAPS[representation]).astype(np.float32)
    for size in SIZES:
        network = openl3_network.openl3_network(numbers.n_mels, numbers.n_frames, size)
        set_weights(network, layers)

        embedding = network.predict(window[None, ..., None], verbose=0)[0]

        expected = by_the_book(window, layers, size)
        assert embedding.shape == ((FEW[-1],) if size == 512 else (4 * 3 * FEW[-1],))
        np.testing.assert_allclose(embedding, expected, atol=1e-4)


@pytest.mark.usefixtures("few_filters")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_keras_saved_is_the_same_network(tmp_path: Path) -> None:
    """A whole model that Keras wrote as HDF5 gives, once read, the same embedding to the last bit."""
    numbers = front_end("mel128")
    written, read = (openl3_network.openl3_network(numbers.n_mels, numbers.n_frames, 512) for _ in range(2))
    set_weights(written, random_layers(5))
    written.save(tmp_path / "model.h5")

    set_weights(read, read_weights(tmp_path / "model.h5"))

    window = np.random.default_rng(2).uniform(-80.0, 0.0, (1, *MAPS["mel128"], 1)).astype(np.float32)
    assert keras.ops.convert_to_numpy(read(window)).tobytes() == keras.ops.convert_to_numpy(written(window)).tobytes()
