"""The networks: the paper's, time-valid, foldable."""

import keras
import numpy as np
import pytest
from scipy import special

from model_export import networks
from model_export.features import FRONT_END


def test_the_embedding_network_is_the_l3_audio_network_at_edge_size() -> None:
    """Four blocks of two 3x3 convolutions, 32 to 256 filters, 256-d, two final columns and nothing padded in time."""
    network = networks.embedding_network(FRONT_END)
    convolutions = [layer for layer in network.layers if layer.name.startswith("conv")]

    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert network.get_layer("relu4b").output.shape[1:3] == (2, 8)
    assert network.output_shape == (None, 256)
    assert network.count_params() < 1_300_000


def test_the_embedding_does_not_depend_on_where_the_stream_was_cut() -> None:
    """Time-valid: each final column depends on its own frames only, so shifting by a column's step shifts columns."""
    network = networks.embedding_network(FRONT_END)
    columns = keras.Model(network.input, network.get_layer("relu4b").output)
    rng = np.random.default_rng(0)
    stream = rng.uniform(-80, -20, (1, FRONT_END.n_frames + 8, FRONT_END.n_mels, 1)).astype(np.float32)

    first = columns.predict(stream[:, :-8], verbose=0)
    second = columns.predict(stream[:, 8:], verbose=0)

    np.testing.assert_allclose(first[:, 1], second[:, 0], atol=1e-4)


def test_folding_the_standardization_changes_nothing() -> None:
    """What is shipped says what was trained."""
    rng = np.random.default_rng(1)
    classifier = networks.classifier_network(16, 3)
    statistics = [rng.normal(size=16), rng.uniform(0.5, 2.0, 16)]
    classifier.get_layer(networks.STANDARDIZATION).set_weights(statistics)
    embeddings = rng.normal(size=(20, 16)).astype(np.float32)

    folded = networks.without_standardization(classifier)

    expected = classifier.predict(embeddings, verbose=0)
    np.testing.assert_allclose(folded.predict(embeddings, verbose=0), expected, atol=1e-5)
    assert [layer.units for layer in folded.layers if hasattr(layer, "units")] == [512, 128, 3]


def small_classifier(activation: str) -> keras.Model:
    """A trained classifier's shape, with weights that nobody trained."""
    softmax = networks.classifier_network(16, 3)
    last = softmax.layers[-1]
    answer = keras.layers.Dense(3, activation=activation, name=last.name)
    network = keras.Model(softmax.input, answer(last.input))
    answer.set_weights(last.get_weights())
    return network


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_calibration_is_folded_into_the_last_layer(activation: str) -> None:
    """The rescaled network says what rescaling its sums would say; the one it was made from stays as it was."""
    classifier = small_classifier(activation)
    embeddings = np.random.default_rng(2).normal(size=(20, 16)).astype(np.float32)
    before = classifier.predict(embeddings, verbose=0)
    scale, bias = [0.5, 2.0, 1.0], [0.1, -1.0, 0.0]

    rescaled = networks.rescaled(classifier, scale, bias)

    sums = networks.without_output(classifier).predict(embeddings, verbose=0) * scale + bias
    expected = special.softmax(sums, axis=1) if activation == "softmax" else special.expit(sums)
    np.testing.assert_allclose(rescaled.predict(embeddings, verbose=0), expected, atol=1e-5)
    np.testing.assert_array_equal(classifier.predict(embeddings, verbose=0), before)
    assert networks.output_of(rescaled) == networks.output_of(classifier) == activation
