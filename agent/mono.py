"""Many channels to one, for microphones and recordings alike.

In: interleaved samples and which channel is meant. Out: mono. Stateless.
"""

from typing import Literal

import numpy as np

from agent.values import FloatArray

Channel = int | Literal["mix"]


def to_mono(samples: FloatArray, channel: Channel) -> tuple[FloatArray, int]:
    """One channel, or the mean of all. What is not a number becomes silence: one NaN would spoil every later window.

    Args:
        samples: float32 (n, n_channels).
        channel: counted from 1, or `mix`.

    Returns:
        float32 (n,), contiguous; and how many of the samples that were meant, or of their means, were NaN or infinite.
    """
    chosen, n_invalid = _silenced(samples if channel == "mix" else samples[:, channel - 1 : channel])
    if chosen.shape[1] == 1:
        return np.ascontiguousarray(chosen[:, 0]), n_invalid
    with np.errstate(over="ignore", invalid="ignore"):  # the sum of the largest numbers is none
        mixed, n_overflowed = _silenced(chosen.mean(axis=1, dtype=np.float32))  # (n,)
    return mixed, n_invalid + n_overflowed


def _silenced(samples: FloatArray) -> tuple[FloatArray, int]:
    """The same with 0 for what is not a number; and how many were none."""
    valid = np.isfinite(samples)
    n_invalid = int(valid.size - np.count_nonzero(valid))
    return (np.where(valid, samples, np.float32(0.0)) if n_invalid else samples), n_invalid
