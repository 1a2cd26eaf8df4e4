"""What learning is driven by: what a mistake costs, and how large the steps are.

Source: one cycle, Smith and Topin 2019.
"""

import math
from collections.abc import Callable

import keras
from keras import ops

from model_export.networks import Likelihoods


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """The learning rate rises to its peak and falls to nothing, both along a cosine."""

    def __init__(self, peak: float, n_steps: int, warm_up: float) -> None:
        self._peak, self._n_steps, self._warm_up = peak, n_steps, warm_up

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The rate at a step."""
        part = ops.cast(step, "float32") / self._n_steps
        rising = 0.5 * (1.0 - ops.cos(math.pi * part / self._warm_up))
        falling = 0.5 * (1.0 + ops.cos(math.pi * (part - self._warm_up) / (1.0 - self._warm_up)))
        return self._peak * ops.maximum(ops.where(part < self._warm_up, rising, falling), 1e-3)


def cost_of(likelihoods: Likelihoods) -> Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]:
    """What a wrong likelihood costs: of each label on its own, or of one of them."""
    return sigmoid_cross_entropy if likelihoods == "sigmoid" else cross_entropy


def cross_entropy(label: keras.KerasTensor, likelihood: keras.KerasTensor) -> keras.KerasTensor:
    """The cross-entropy of each row.

    Args:
        label: float32 (batch, n_labels), rows sum to 1.
        likelihood: float32 (batch, n_labels), rows sum to 1.
    """
    return -ops.sum(label * ops.log(ops.maximum(likelihood, 1e-7)), axis=-1)


def sigmoid_cross_entropy(label: keras.KerasTensor, likelihood: keras.KerasTensor) -> keras.KerasTensor:
    """The cross-entropy of each label on its own, summed over the labels.

    Args:
        label: float32 (batch, n_labels), in [0, 1].
        likelihood: float32 (batch, n_labels), in [0, 1].
    """
    likely = ops.clip(likelihood, 1e-6, 1.0 - 1e-6)
    costs = label * ops.log(likely) + (1.0 - label) * ops.log(1.0 - likely)
    return -ops.sum(costs, axis=-1)
