"""The MLP in numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.values import FloatArray
from model_export.mlp import HIDDEN, Mlp, loss_and_gradient, mlp_of, train


def clouds(counts: tuple[int, ...], *, seed: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Embeddings of 8 values around one point for each label; the points are the same for every seed."""
    points = 2.0 * np.random.default_rng(7).normal(size=(len(counts), 8))
    targets = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(size=(len(targets), 8))
    return (points[targets] + noise).astype(np.float32), targets


def test_the_gradient_is_that_of_the_loss() -> None:
    """Moving any weight or bias a little changes the loss by what the gradient says."""
    rng = np.random.default_rng(0)
    sizes = (5, 7, 4, 3)
    values = rng.normal(size=5 * 7 + 7 * 4 + 4 * 3 + 7 + 4 + 3)
    embeddings, targets = rng.normal(size=(6, 5)), rng.integers(0, 3, 6)

    def loss(changed: NDArray[np.float64]) -> float:
        return loss_and_gradient(mlp_of(changed, sizes), embeddings, targets)[0]  # type: ignore[arg-type]  # in float64

    _, gradient = loss_and_gradient(mlp_of(values, sizes), embeddings, targets)  # type: ignore[arg-type]

    steps = 1e-6 * np.eye(len(values))
    measured = [(loss(values + step) - loss(values - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(gradient, measured, atol=1e-7)
    assert np.abs(gradient).max() > 0.1


def test_likelihoods_share_one_among_the_labels() -> None:
    """Also where one label is far ahead of the others."""
    mlp = Mlp((np.eye(3, dtype=np.float32),), (np.zeros(3, np.float32),))

    likelihoods = mlp.likelihoods(np.array([[0, 0, 0], [1_000, 0, -1_000]], np.float32))

    np.testing.assert_allclose(likelihoods, np.array([[1 / 3] * 3, [1, 0, 0]]), atol=1e-6)


def test_standardization_goes_into_the_first_layer() -> None:
    """A network for standardized embeddings becomes one for embeddings as they are."""
    rng = np.random.default_rng(1)
    mlp = mlp_of(rng.normal(size=3 * 4 + 4 * 2 + 4 + 2).astype(np.float32), (3, 4, 2))
    mean, deviation = np.array([[1, -2, 30], [0.5, 2, 10]], np.float32)
    embeddings = (mean + deviation * rng.normal(size=(9, 3))).astype(np.float32)

    likelihoods = mlp.on_raw(mean, deviation).likelihoods(embeddings)

    np.testing.assert_allclose(likelihoods, mlp.likelihoods((embeddings - mean) / deviation), atol=1e-5)


def test_what_can_be_told_apart_is_learnt() -> None:
    """Three classes, one of them rare: embeddings that were not in training get their label."""
    embeddings, targets = clouds((400, 400, 10), seed=1)
    unheard, expected = clouds((50, 50, 50), seed=2)
    weights = 1.0 / np.array([400, 400, 10])[targets]

    mlp = train(embeddings, targets, weights, n_labels=3, seed=0)

    assert [layer.shape[1] for layer in mlp.weights] == [*HIDDEN, 3]
    assert (mlp.likelihoods(unheard).argmax(axis=1) == expected).mean() > 0.95


def test_what_has_no_weight_is_not_learnt() -> None:
    """Embeddings that are never drawn leave the network as it is without them."""
    embeddings, targets = clouds((30, 30), seed=3)
    weights = np.repeat([1.0, 0.0], 30)

    mlp = train(embeddings, targets, weights, n_labels=2, seed=0)

    assert (mlp.likelihoods(embeddings).argmax(axis=1) == 0).all()


@pytest.mark.parametrize(("seed", "is_same"), [(0, True), (1, False)])
def test_the_seed_decides_the_network(seed: int, is_same: bool) -> None:
    """The same seed gives the same network to the last bit, another seed another."""
    embeddings, targets = clouds((20, 20), seed=4)
    weights = np.ones(40)

    mlp = train(embeddings, targets, weights, n_labels=2, seed=0)
    other = train(embeddings, targets, weights, n_labels=2, seed=seed)

    assert np.array_equal(mlp.weights[0], other.weights[0]) == is_same
    assert np.array_equal(mlp.biases[-1], other.biases[-1]) == is_same
