"""The audio network of OpenL3 in Keras, exactly: from its representation of one window to its embedding.

In: the shape of a window, the size of the embedding, the arrays of its layers. Out: a Keras network. It pads along time
too, so it has no streaming form; and its embedding is taken before a normalization and ReLU, so values may be negative.

Source: Cramer et al., ICASSP 2019; marl/openl3, models.py.
"""

from collections.abc import Sequence

import keras
from keras import layers

from model_export.openl3 import FILTERS, POOLS, Size
from model_export.openl3_weights import Layer

LAST_CONVOLUTION = "audio_embedding_layer"  # its name in the published files


def openl3_network(n_bands: int, n_frames: int, size: Size) -> keras.Model:
    """The network with weights that are not trained yet.

    Input float32 (batch, n_bands, n_frames, 1) in [-80, 0], output float32 (batch, size).
    """
    window = x = keras.Input((n_bands, n_frames, 1), name="spectrogram")
    x = layers.BatchNormalization(name="input_normalization")(x)
    for block, n_filters in enumerate(FILTERS, start=1):
        for half in "ab":
            is_last = block == len(FILTERS) and half == "b"
            name = LAST_CONVOLUTION if is_last else f"conv{block}{half}"
            x = layers.Conv2D(n_filters, 3, padding="same", kernel_initializer="he_normal", name=name)(x)
            if not is_last:
                x = layers.BatchNormalization(name=f"normalization{block}{half}")(x)
                x = layers.ReLU(name=f"relu{block}{half}")(x)
        if block < len(FILTERS):
            x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    _, n_rows, n_columns, _ = x.shape
    kept_rows, kept_columns = POOLS[size]
    x = layers.MaxPooling2D((n_rows // kept_rows, n_columns // kept_columns), padding="same", name="maximum")(x)
    return keras.Model(window, layers.Flatten(name="embedding")(x), name="openl3")


def set_weights(network: keras.Model, weights: Sequence[Layer]) -> None:
    """Give each layer that has weights its arrays, in order (`openl3_weights.read_weights`)."""
    weighted = [layer for layer in network.layers if layer.weights]
    for layer, arrays in zip(weighted, weights, strict=True):
        layer.set_weights(arrays)
