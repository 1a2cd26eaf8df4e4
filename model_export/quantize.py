"""Keras networks to fully quantized TFLite: int8 weights, int8 activations, int8 in and out.

In: the trained networks and windows of real recordings. Out: `embedding.tflite`, the same in its streaming form, and
`classifier.tflite`.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import flatbuffers
import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.values import FloatArray
from model_export import networks
from model_export.augment import level_db
from model_export.clips import Clip
from model_export.features import FRONT_END, at_card_level, frames_of_clips
from model_export.streaming import STREAMING_NAME, write_streaming

if TYPE_CHECKING:
    import tensorflow as tf

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
    return _converted(_converter(network))


def to_int8(network: keras.Model, inputs: FloatArray) -> bytes:
    """Convert one network, calibrated on `inputs`, float32 (n, ...) in the network's input shape."""
    import tensorflow as tf

    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return _converted(converter)


def _converter(network: keras.Model) -> "tf.lite.TFLiteConverter":
    """For one window at a time."""
    import tensorflow as tf

    one = keras.Input(batch_shape=(1, *network.input_shape[1:]))
    return tf.lite.TFLiteConverter.from_keras_model(keras.Model(one, network(one)))


def _converted(converter: "tf.lite.TFLiteConverter") -> bytes:
    with redirect_stdout(io.StringIO()):  # Keras tells at length what it hands over (3.15)
        converted: bytes = converter.convert()
    return converted


def _one_by_one(inputs: FloatArray) -> Callable[[], Iterator[list[FloatArray]]]:
    return lambda: ([row[None].astype(np.float32)] for row in inputs)


def deaf_to_level(converted: bytes, kernel: FloatArray) -> bytes:
    """Round the first convolution's weights so that each filter sums to 0 in int8, too.

    A sum that is off by one step lets the level through, times a hundred steps of decibels: it made four fifths of the
    difference between int8 and float.

    Args:
        converted: the embedding network, full int8; its first operator is the first convolution.
        kernel: float32 (3, 3, 1, n_filters), as trained: filters that sum to 0.

    Returns:
        the network with the weights of some filters moved by a step or two, those that were rounded furthest.
    """
    model = schema.ModelT.InitFromPackedBuf(converted)
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.operators[0].inputs[1]]
    buffer = model.buffers[tensor.buffer]
    steps = np.frombuffer(buffer.data.tobytes(), np.int8).astype(np.int64).reshape(kernel.shape[-1], -1)
    trained = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)  # (n_filters, 9)
    # The converter multiplied each filter by a number of its own, for the batch normalization after it.
    exact = trained * ((steps * trained).sum(axis=1) / (trained**2).sum(axis=1))[:, None]
    for of_filter, wanted in zip(steps, exact, strict=True):
        while excess := int(of_filter.sum()):
            towards = -np.sign(excess)
            room = np.where(np.abs(of_filter + towards) <= 127, (wanted - of_filter) * towards, -np.inf)
            of_filter[room.argmax()] += towards
    buffer.data = np.frombuffer(steps.astype(np.int8).tobytes(), np.uint8)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


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
    (kernel,) = embedding.get_layer("conv1a").get_weights()
    windowed.write_bytes(deaf_to_level(to_int8(embedding, inputs), kernel))
    write_streaming(windowed, out / STREAMING_NAME, chunk_frames=networks.CHUNK_FRAMES)
    folded = networks.without_standardization(classifier)
    (out / f"{networks.CLASSIFIER}.tflite").write_bytes(to_int8(folded, embeddings))
