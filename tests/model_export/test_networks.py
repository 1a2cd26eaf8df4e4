"""The networks: the paper's, time-valid, foldable."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import special

from model_export import networks
from model_export.features import FRONT_END


def test_the_embedding_network_is_the_l3_audio_network_at_edge_size() -> None:
    """Four blocks of two 3x3 convolutions, 32 to 240 filters, two final columns, nothing padded in time; and small."""
    network = networks.embedding_network(FRONT_END)
    convolutions = [layer for layer in network.layers if layer.name.startswith("conv")]

    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128, 240, 240]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert network.get_layer("relu4b").output.shape[1:3] == (2, 7)
    assert network.output_shape == (None, 240)
    classifier = networks.classifier_network(240, 11)
    assert network.count_params() + classifier.count_params() < 1_300_000


def test_training_is_not_bound_to_tensorflow() -> None:
    """Only converting is, and setting its threads: another backend of Keras can train, such as JAX on a GPU."""
    bound = set()
    for file in Path(networks.__file__).parent.glob("*.py"):
        module = ast.parse(file.read_text())
        for node in ast.walk(module):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "tensorflow" for name in names):
                bound.add((file.stem, node not in module.body))  # in a function

    assert bound == {("quantize", True), ("networks", True)}


def test_the_embedding_does_not_depend_on_where_the_stream_was_cut() -> None:
    """Time-valid: each final column depends on its own frames only, so shifting by a column's step shifts columns."""
    network = networks.embedding_network(FRONT_END)
    columns = keras.Model(network.input, network.get_layer("relu4b").output)
    rng = np.random.default_rng(0)
    stream = rng.uniform(-80, -20, (1, FRONT_END.n_frames + 8, FRONT_END.n_mels, 1)).astype(np.float32)

    first = columns.predict(stream[:, :-8], verbose=0)
    second = columns.predict(stream[:, 8:], verbose=0)

    np.testing.assert_allclose(first[:, 1], second[:, 0], atol=1e-4)


def test_the_embedding_does_not_depend_on_the_level() -> None:
    """Deaf to level: a sound that is 20 dB louder has the same embedding, as far as the range of levels reaches."""
    network = networks.embedding_network(FRONT_END)
    first = network.get_layer("conv1a")
    first.kernel.assign(first.kernel_constraint(first.kernel))  # as after each step of training
    windows = np.random.default_rng(2).uniform(-80, -40, (4, FRONT_END.n_frames, FRONT_END.n_mels, 1))

    quiet, loud = (network.predict((windows + gain_db).astype(np.float32), verbose=0) for gain_db in (-20.0, 20.0))

    np.testing.assert_allclose(quiet, loud, rtol=1e-3, atol=1e-3 * np.abs(loud).max())


def test_likelihoods_are_of_one_label_or_of_each() -> None:
    """The paper's softmax shares 1 among the labels; sigmoids may be high for two sounds at once."""
    embeddings = np.random.default_rng(3).normal(size=(20, 16)).astype(np.float32)

    one = networks.classifier_network(16, 3, likelihoods="softmax").predict(embeddings, verbose=0)
    each = networks.classifier_network(16, 3, likelihoods="sigmoid").predict(embeddings, verbose=0)

    np.testing.assert_allclose(one.sum(axis=1), 1.0, atol=1e-5)
    assert each.sum(axis=1).max() > 1.1


@pytest.mark.parametrize("likelihoods", ["softmax", "sigmoid"])
def test_folding_the_standardization_changes_nothing(likelihoods: networks.Likelihoods) -> None:
    """What is shipped says what was trained."""
    rng = np.random.default_rng(1)
    classifier = networks.classifier_network(16, 3, likelihoods=likelihoods)
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
