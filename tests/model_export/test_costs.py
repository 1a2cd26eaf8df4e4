"""What a mistake costs, and how large the steps are."""

import numpy as np

from model_export.costs import OneCycle, cross_entropy, sigmoid_cross_entropy


def test_each_label_costs_on_its_own() -> None:
    """Against its definition, for one label and for two at a time."""
    labels = np.asarray([[1.0, 0.0], [1.0, 0.5]], np.float32)
    likelihoods = np.asarray([[0.5, 0.1], [0.8, 0.4]], np.float32)

    expected = [np.log(2.0) - np.log(0.9), -np.log(0.8) - 0.5 * np.log(0.4) - 0.5 * np.log(0.6)]
    np.testing.assert_allclose(sigmoid_cross_entropy(labels, likelihoods), expected, rtol=1e-5)


def test_the_labels_cost_the_cross_entropy() -> None:
    """Against its definition, for one label and for two that share."""
    labels = np.asarray([[1.0, 0.0], [0.25, 0.75]], np.float32)
    likelihoods = np.asarray([[0.5, 0.5], [0.1, 0.9]], np.float32)

    expected = [np.log(2.0), -0.25 * np.log(0.1) - 0.75 * np.log(0.9)]
    np.testing.assert_allclose(cross_entropy(labels, likelihoods), expected, rtol=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    """One cycle: from nearly nothing to the peak at the end of the warm-up, and back."""
    rate = OneCycle(1e-3, 100, 0.25)

    rates = [float(rate(np.float32(step))) for step in (0, 25, 100)]

    np.testing.assert_allclose(rates, [1e-6, 1e-3, 1e-6], rtol=1e-3)
