"""Keras networks to fully quantized TFLite: int8 weights, int8 activations, int8 in and out.

In: the trained networks and windows of real recordings. Out: `embedding.tflite`, the same in its streaming form, and
`classifier.tflite`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from agent.values import FloatArray
from model_export import networks
from model_export.augment import level_db
from model_export.clips import Clip
from model_export.features import FRONT_END, at_card_level, frames_of_clips
from model_export.streaming import STREAMING_NAME, write_streaming

N_REPRESENTATIVE = 512
GAINS_DB = (0.0, -10.0, -20.0, -30.0)


def representative_windows(clips: Sequence[Clip], *, seed: int) -> FloatArray:
    """One loud window each of up to `N_REPRESENTATIVE` clips, all labels alike, at the levels that a street has.

    Returns:
        float32 (n, n_frames, n_mels).
    """
    rng = np.random.default_rng(seed)
    by_label: dict[str, list[Clip]] = {}
    for clip in clips:
        by_label.setdefault(clip.label, []).append(clip)
    per_label = max(1, N_REPRESENTATIVE // len(by_label))
    chosen = [group[index] for group in by_label.values() for index in rng.permutation(len(group))[:per_label]]
    windows = []
    for number, frames in enumerate(frames_of_clips(chosen)):
        starts = range(0, len(frames) - FRONT_END.n_frames + 1, 8)
        loudest = max(starts, key=lambda start: level_db(frames[start : start + FRONT_END.n_frames]))
        window = frames[loudest : loudest + FRONT_END.n_frames] + np.float32(GAINS_DB[number % len(GAINS_DB)])
        windows.append(at_card_level(window))
    return np.stack(windows)


def to_float32(network: keras.Model) -> bytes:
    """Convert one network as it is."""
    converted: bytes = _converter(network).convert()
    return converted


def to_int8(network: keras.Model, inputs: FloatArray) -> bytes:
    """Convert one network, calibrated on `inputs`, float32 (n, ...) in the network's input shape."""
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    converted: bytes = converter.convert()
    return converted


def _converter(network: keras.Model) -> tf.lite.TFLiteConverter:
    """For one window at a time."""
    one = keras.Input(batch_shape=(1, *network.input_shape[1:]))
    return tf.lite.TFLiteConverter.from_keras_model(keras.Model(one, network(one)))


def _one_by_one(inputs: FloatArray) -> Callable[[], Iterator[list[FloatArray]]]:
    return lambda: ([row[None].astype(np.float32)] for row in inputs)


def quantize(embedding: keras.Model, classifier: keras.Model, windows: FloatArray, out: Path) -> None:
    """Write both networks as int8 TFLite files, and the streaming form of the first.

    Args:
        embedding: window to embedding.
        classifier: embedding to likelihoods, with its standardization.
        windows: float32 (n, n_frames, n_mels), of real recordings.
        out: the folder to write to.
    """
    inputs = windows[..., None]
    embeddings = embedding.predict(inputs, batch_size=64, verbose=0)
    out.mkdir(parents=True, exist_ok=True)
    windowed = out / f"{networks.EMBEDDING}.tflite"
    windowed.write_bytes(to_int8(embedding, inputs))
    write_streaming(windowed, out / STREAMING_NAME, chunk_frames=networks.CHUNK_FRAMES)
    folded = networks.without_standardization(classifier)
    (out / f"{networks.CLASSIFIER}.tflite").write_bytes(to_int8(folded, embeddings))
