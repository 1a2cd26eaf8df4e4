"""OpenL3's own way from sound to embeddings: its front end and its network inside one Keras graph, in float32.

In: sound at 48 kHz. Out: embeddings. The weights are random: speed does not depend on them, and nothing else is
measured.

Source: openl3 0.4 (`core.py`, `models.py`), mel256 and 512 values: windows of 1 s at a hop of 0.1 s, the recording
padded with half a second before it, batches of 32; magnitude spectra, Slaney mel bands, 10·log10, each window's maximum
as the reference, 80 dB; Cramer et al., ICASSP 2019, for the network.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from agent.frontend import mel_filters
from agent.model_card import FrontEndNumbers
from agent.values import FloatArray

RATE_HZ = 48_000
HOP_SAMPLES = 4_800
BATCH_SIZE = 32
RANGE_DB = 80.0
FILTERS = (64, 64, 128, 128, 256, 256, 512, 512)
NUMBERS = FrontEndNumbers(
    sample_rate_hz=RATE_HZ,
    window_length_samples=RATE_HZ,
    hop_length_samples=242,
    taper_length_samples=2048,
    fft_length=2048,
    n_mels=256,
    mel_min_hz=0.0,
    mel_max_hz=24_000.0,
    mel_scale="slaney",
    level_min_db=-100.0,
    level_max_db=0.0,
)


class LogMel(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Windows (n, 48000) to log-mel (n, 256, 199, 1), each relative to its own maximum."""

    def __init__(self) -> None:
        super().__init__()
        self._filters = mel_filters(NUMBERS).astype(np.float32)  # (n_bins, n_mels); their norm costs no time

    def call(self, windows: Any) -> Any:  # noqa: ANN401  Keras has no types
        """What Keras calls."""
        spectra = tf.signal.stft(
            windows, NUMBERS.taper_length_samples, NUMBERS.hop_length_samples, NUMBERS.fft_length, pad_end=True
        )
        mel = tf.matmul(tf.abs(spectra), self._filters)  # (n, 199, 256)
        level = 10.0 * tf.math.log(tf.maximum(mel, 1e-10)) / tf.math.log(10.0)
        level -= tf.reduce_max(level, axis=(1, 2), keepdims=True)
        return tf.transpose(tf.maximum(level, -RANGE_DB), (0, 2, 1))[..., tf.newaxis]


def network() -> Any:  # noqa: ANN401
    """Windows (n, 48000) to embeddings (n, 512)."""
    windows = keras.Input((RATE_HZ,))
    values = keras.layers.BatchNormalization()(LogMel()(windows))
    for number, n_filters in enumerate(FILTERS[:-1], start=1):
        values = keras.layers.Conv2D(n_filters, 3, padding="same")(values)
        values = keras.layers.ReLU()(keras.layers.BatchNormalization()(values))
        if number % 2 == 0:
            values = keras.layers.MaxPooling2D()(values)
    values = keras.layers.Conv2D(FILTERS[-1], 3, padding="same")(values)
    return keras.Model(windows, keras.layers.GlobalMaxPooling2D()(values))


class OpenL3:
    """Embeddings of recordings, with one thread."""

    def __init__(self) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._network = network()

    def embed(self, samples: FloatArray) -> FloatArray:
        """Sound at 48 kHz, float32 (n,), to embeddings, float32 (n_windows, 512)."""
        padded = np.pad(samples, (RATE_HZ // 2, 0))
        windows = np.lib.stride_tricks.sliding_window_view(padded, RATE_HZ)[::HOP_SAMPLES]
        embeddings: FloatArray = self._network.predict(windows, batch_size=BATCH_SIZE, verbose=0)
        return embeddings
