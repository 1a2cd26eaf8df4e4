"""The paper's MLP 512-128 in numpy: trained in seconds on embeddings that are already there.

In: embeddings, their labels, how often each is drawn. Out: an `Mlp` whose first layer holds the standardization. The
same in Keras, beside the network that makes the embeddings, is in `networks`.

Source: Cramer et al., ICASSP 2019, section 3 (MLP 512-128, Adam). The number of steps is fixed: ten recordings of a
class leave none to stop early by. Neither mixup nor weight decay nor more steps made a difference beyond chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray

HIDDEN = (512, 128)
STEPS = 300
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # at the first step; falls in a line to 0
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Adam (Kingma and Ba, ICLR 2015)
VARIANCE_FLOOR = 1e-3  # added, so that a value that never changes in training stays harmless; as Keras does


@dataclass(frozen=True, slots=True, eq=False)
class Mlp:
    """Dense layers with ReLU between them and softmax at the end.

    Attributes:
        weights: of each layer, float32 (n_inputs, n_units).
        biases: of each layer, float32 (n_units,).
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    def activations(self, embeddings: FloatArray) -> list[FloatArray]:
        """What goes into each layer, and what the last one gives before softmax; each float32 (n, n_units)."""
        values = [embeddings]
        for number, (weights, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            sums = values[-1] @ weights + bias
            values.append(np.maximum(sums, 0.0) if number < len(self.weights) - 1 else sums)
        return values

    def likelihoods(self, embeddings: FloatArray) -> FloatArray:
        """Judge embeddings, float32 (n, d).

        Returns:
            float32 (n, n_labels), rows sum to 1.
        """
        return softmax(self.activations(embeddings)[-1])

    def on_raw(self, mean: FloatArray, deviation: FloatArray) -> Self:
        """The same function of embeddings before (embedding - mean) / deviation, both float32 (d,)."""
        first = self.weights[0] / deviation[:, None]
        return type(self)((first, *self.weights[1:]), (self.biases[0] - mean @ first, *self.biases[1:]))


def softmax(sums: FloatArray) -> FloatArray:
    """Along the last axis."""
    powers = np.exp(sums - sums.max(axis=-1, keepdims=True))
    likelihoods: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return likelihoods


def mlp_of(values: FloatArray, sizes: Sequence[int]) -> Mlp:
    """An MLP whose weights and biases are views of one flat array: first all weights, then all biases.

    Args:
        values: float32 (n_values,).
        sizes: of the input and of each layer.
    """
    shapes = [*pairwise(sizes), *((size,) for size in sizes[1:])]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    views = [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
    return Mlp(tuple(views[: len(sizes) - 1]), tuple(views[len(sizes) - 1 :]))


def loss_and_gradient(mlp: Mlp, embeddings: FloatArray, targets: NDArray[np.int64]) -> tuple[float, FloatArray]:
    """Mean cross-entropy, and its gradient in the order of `mlp_of`.

    Args:
        mlp: as it is now.
        embeddings: float32 (n, d).
        targets: int64 (n,), the label's place.
    """
    *inputs, sums = mlp.activations(embeddings)
    likelihoods = softmax(sums)  # (n, n_labels)
    rows = np.arange(len(targets))
    loss = -float(np.mean(np.log(likelihoods[rows, targets] + np.finfo(np.float32).tiny)))
    error = likelihoods.copy()  # of the loss by the sums
    error[rows, targets] -= 1.0
    error /= len(targets)
    by_weights, by_biases = [], []
    for number in reversed(range(len(mlp.weights))):
        by_weights.append(inputs[number].T @ error)
        by_biases.append(error.sum(axis=0))
        if number:
            error = (error @ mlp.weights[number].T) * (inputs[number] > 0.0)  # (n, n_units) of the layer before
    return loss, np.concatenate([part.ravel() for part in [*reversed(by_weights), *reversed(by_biases)]])


def train(
    embeddings: FloatArray, targets: NDArray[np.int64], weights: NDArray[np.float64], *, n_labels: int, seed: int
) -> Mlp:
    """Train on embeddings that are drawn at random.

    Args:
        embeddings: float32 (n, d).
        targets: int64 (n,), the label's place.
        weights: float64 (n,), how often each is drawn in relation to the others.
        n_labels: how many labels there are.
        seed: of the initial weights and of what is drawn. The same seed gives the same network.
    """
    rng = np.random.default_rng(seed)
    share = weights / weights.sum()
    mean = (share @ embeddings).astype(np.float32)  # (d,)
    deviation = np.sqrt(share @ (embeddings - mean) ** 2 + VARIANCE_FLOOR).astype(np.float32)
    standardized = (embeddings - mean) / deviation
    sizes = (embeddings.shape[1], *HIDDEN, n_labels)
    # Source of the deviations: He et al., ICCV 2015.
    initial = [rng.normal(0.0, np.sqrt(2.0 / n_in), n_in * n_out) for n_in, n_out in pairwise(sizes)]
    values = np.concatenate([*initial, np.zeros(sum(sizes[1:]))]).astype(np.float32)
    mlp = mlp_of(values, sizes)
    slope, power = np.zeros_like(values), np.zeros_like(values)
    for step, drawn in enumerate(rng.choice(len(share), (STEPS, BATCH_SIZE), p=share), start=1):
        _, gradient = loss_and_gradient(mlp, standardized[drawn], targets[drawn])
        slope += (1 - BETA_1) * (gradient - slope)
        power += (1 - BETA_2) * (gradient**2 - power)
        rate = LEARNING_RATE * (1 - (step - 1) / STEPS)
        values -= rate * (slope / (1 - BETA_1**step)) / (np.sqrt(power / (1 - BETA_2**step)) + EPSILON)
    return mlp.on_raw(mean, deviation)
