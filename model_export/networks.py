"""The networks in Keras: the L3 audio network scaled for the edge, and the paper's MLP.

Time-valid: no convolution pads along time, so a window's embedding does not depend on where the stream was cut, and
the same weights can run incrementally. Along frequency, all convolutions but the first pad with zeros.

Deaf to level: the first convolution sees differences of decibels only, so the distance of a sound and the gain of a
microphone do not come through, as far as the range of levels reaches.

Source: L3, Cramer et al., ICASSP 2019: four blocks of two 3x3 convolutions with batch normalization and pooling, input
batch normalization, MLP 512-128. Filters 32-64-128-256 and the embedding after the last ReLU: SEA, Srivastava et al.,
ICASSP 2021; the last block has 240, so that embedding and MLP together stay below 1.3 million weights.
"""

import os
from collections.abc import Sequence
from typing import Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # without it, TensorFlow trains 1.4 times slower on AVX2

import keras
import numpy as np
from keras import layers

from agent.model_card import FrontEndNumbers
from model_export.results import Output

FILTERS = (32, 64, 128, 240)
HIDDEN = (512, 128)
CHUNK_FRAMES = 2 ** (len(FILTERS) - 1)  # frames that move the last map by one column
EMBEDDING, CLASSIFIER, STANDARDIZATION = "embedding", "classifier", "standardization"

Likelihoods = Literal["sigmoid", "softmax"]  # each label on its own, or one of them


def limit_threads(n: int) -> None:
    """Have TensorFlow compute on `n` threads; before it computes anything. Other backends go their own way."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(n)
        tf.config.threading.set_inter_op_parallelism_threads(1)


@keras.saving.register_keras_serializable("model_export")
class ZeroSum(keras.constraints.Constraint):  # type: ignore[misc]
    """Each filter's weights sum to 0: what is added to all levels does not come through."""

    def __call__(self, kernel: keras.KerasTensor) -> keras.KerasTensor:
        """The nearest kernel of that kind; (height, width, n_inputs, n_filters)."""
        return kernel - keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True)


def embedding_network(numbers: FrontEndNumbers, filters: tuple[int, ...] = FILTERS) -> keras.Model:
    """Window to embedding.

    Input float32 (batch, n_frames, n_mels, 1), output float32 (batch, filters[-1]), not negative.
    """
    window = x = keras.Input((numbers.n_frames, numbers.n_mels, 1), name="log_mel")
    x = layers.BatchNormalization(name="input_normalization")(x)
    for block, n_filters in enumerate(filters, start=1):
        for half in "ab":
            is_first = (block, half) == (1, "a")
            if not is_first:  # it would see the padding as a step in level
                x = layers.ZeroPadding2D(((0, 0), (1, 1)), name=f"pad{block}{half}")(x)
            x = layers.Conv2D(
                n_filters,
                3,
                use_bias=False,
                kernel_initializer="he_normal",
                kernel_constraint=ZeroSum() if is_first else None,
                name=f"conv{block}{half}",
            )(x)
            x = layers.BatchNormalization(name=f"normalization{block}{half}")(x)
            x = layers.ReLU(name=f"relu{block}{half}")(x)
        if block < len(filters):
            x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    return keras.Model(window, layers.GlobalMaxPooling2D(name="maximum")(x), name=EMBEDDING)


def classifier_network(
    n_inputs: int, n_labels: int, hidden: tuple[int, ...] = HIDDEN, *, likelihoods: Likelihoods = "softmax"
) -> keras.Model:
    """Embedding to likelihoods: standardization, the paper's MLP, sigmoid or the paper's softmax.

    Input float32 (batch, n_inputs), output float32 (batch, n_labels); rows of a softmax sum to 1.
    """
    embedding = keras.Input((n_inputs,), name="embedding")
    x = layers.BatchNormalization(center=False, scale=False, name=STANDARDIZATION)(embedding)
    for index, n_units in enumerate(hidden, start=1):
        x = layers.Dense(n_units, activation="relu", kernel_initializer="he_normal", name=f"dense{index}")(x)
    answer = layers.Dense(n_labels, activation=likelihoods, name="likelihoods")(x)
    return keras.Model(embedding, answer, name=CLASSIFIER)


def taught(embedding: keras.Model, classifier: keras.Model, lessons: Sequence[tuple[str, int]]) -> keras.Model:
    """Window to likelihoods and to what teachers say; the layers that predict that are thrown away afterwards.

    Args:
        embedding: window to embedding.
        classifier: embedding to likelihoods.
        lessons: the layer of the embedding network that predicts, and how many values at each place of it; none
            without teachers.
    """
    predicted = [
        layers.Dense(n_values, name=f"lesson{number}")(embedding.get_layer(layer).output)
        for number, (layer, n_values) in enumerate(lessons, start=1)
    ]
    return keras.Model(embedding.input, [classifier(embedding.output), *predicted], name="sensor")


def without_standardization(classifier: keras.Model) -> keras.Model:
    """The same function with the standardization folded into the first dense layer: what is shipped."""
    hidden = tuple(layer.units for layer in classifier.layers if isinstance(layer, layers.Dense))
    mean, variance = classifier.get_layer(STANDARDIZATION).get_weights()
    scale = 1.0 / np.sqrt(variance + classifier.get_layer(STANDARDIZATION).epsilon)
    embedding = keras.Input(classifier.input_shape[1:], name="embedding")
    x = embedding
    for index, n_units in enumerate(hidden[:-1], start=1):
        x = layers.Dense(n_units, activation="relu", name=f"dense{index}")(x)
    activation = classifier.get_layer("likelihoods").activation
    folded = keras.Model(embedding, layers.Dense(hidden[-1], activation=activation, name="likelihoods")(x))
    for layer in folded.layers:
        if isinstance(layer, layers.Dense):
            layer.set_weights(classifier.get_layer(layer.name).get_weights())
    first = folded.get_layer("dense1")
    kernel, bias = first.get_weights()
    first.set_weights([kernel * scale[:, None], bias - (mean * scale) @ kernel])
    return folded


def output_of(classifier: keras.Model) -> Output:
    """What the last layer makes of its sums."""
    return "sigmoid" if classifier.layers[-1].activation is keras.activations.sigmoid else "softmax"


def without_output(classifier: keras.Model) -> keras.Model:
    """Embedding to what the last layer sums up, before softmax or sigmoid."""
    last = classifier.layers[-1]
    sums = layers.Dense(last.units, name="sums")
    network = keras.Model(classifier.input, sums(last.input))
    sums.set_weights(last.get_weights())
    return network


def rescaled(classifier: keras.Model, scale: Sequence[float], bias: Sequence[float]) -> keras.Model:
    """The same classifier, with each sum of its last layer multiplied and then shifted: calibration folded in."""
    network = keras.models.clone_model(classifier)
    network.set_weights(classifier.get_weights())
    kernel, offset = network.layers[-1].get_weights()
    network.layers[-1].set_weights([kernel * scale, offset * scale + bias])
    return network
