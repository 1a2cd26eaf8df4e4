"""Many channels to one, for microphones and recordings alike.

In: interleaved samples and which channel is meant. Out: mono. Stateless.
"""

from typing import Literal

import numpy as np

from agent.values import FloatArray

LARGEST = np.float32(1e12)  # full scale is 1; a spectrum of what is much larger overflows

Channel = int | Literal["mix"]


def to_mono(samples: FloatArray, channel: Channel) -> tuple[FloatArray, int]:
    """One channel, or the mean of all. What cannot be sound becomes silence: one NaN would spoil every later window.

    Args:
        samples: float32 (n, n_channels).
        channel: counted from 1, or `mix`.

    Returns:
        float32 (n,), contiguous; and how many of the samples that were meant were NaN, infinite or beyond `LARGEST`.
    """
    chosen = samples if channel == "mix" else samples[:, channel - 1 : channel]
    valid = np.abs(chosen) <= LARGEST
    n_invalid = int(valid.size - np.count_nonzero(valid))
    if n_invalid:
        chosen = np.where(valid, chosen, np.float32(0.0))
    if chosen.shape[1] == 1:
        return np.ascontiguousarray(chosen[:, 0]), n_invalid
    mixed: FloatArray = chosen.mean(axis=1, dtype=np.float32)  # (n,)
    return mixed, n_invalid
