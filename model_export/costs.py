"""What learning is driven by: what a mistake costs, and how large the steps are.

Source: one cycle, Smith and Topin 2019.
"""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from model_export.networks import Likelihoods


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """The learning rate rises to its peak and falls to nothing, both along a cosine."""

    def __init__(self, peak: float, n_steps: int, warm_up: float) -> None:
        self._peak, self._n_steps, self._warm_up = peak, n_steps, warm_up

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate at a step."""
        part = tf.cast(step, tf.float32) / self._n_steps
        rising = 0.5 * (1.0 - tf.cos(math.pi * part / self._warm_up))
        falling = 0.5 * (1.0 + tf.cos(math.pi * (part - self._warm_up) / (1.0 - self._warm_up)))
        return self._peak * tf.maximum(tf.where(part < self._warm_up, rising, falling), 1e-3)


def cost_of(likelihoods: Likelihoods) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """What a wrong likelihood costs: of each label on its own, or of one of them."""
    return sigmoid_cross_entropy if likelihoods == "sigmoid" else cross_entropy


def cross_entropy(label: tf.Tensor, likelihood: tf.Tensor) -> tf.Tensor:
    """The cross-entropy of each row.

    Args:
        label: float32 (batch, n_labels), rows sum to 1.
        likelihood: float32 (batch, n_labels), rows sum to 1.
    """
    return -tf.reduce_sum(label * tf.math.log(tf.maximum(likelihood, 1e-7)), axis=-1)


def sigmoid_cross_entropy(label: tf.Tensor, likelihood: tf.Tensor) -> tf.Tensor:
    """The cross-entropy of each label on its own, summed over the labels.

    Args:
        label: float32 (batch, n_labels), in [0, 1].
        likelihood: float32 (batch, n_labels), in [0, 1].
    """
    likely = tf.clip_by_value(likelihood, 1e-6, 1.0 - 1e-6)
    costs = label * tf.math.log(likely) + (1.0 - label) * tf.math.log(1.0 - likely)
    return -tf.reduce_sum(costs, axis=-1)
