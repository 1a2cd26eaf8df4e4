"""What lies between a street sound and the samples: an overload, a low-rate codec.

In: samples. Out: as many samples. Drawn at random, for training.
"""

import numpy as np
import soxr

from agent.values import FloatArray

OVERLOAD_DB = (3.0, 20.0)  # by how much the peaks reach beyond full scale
TELEPHONE_RATE_HZ = 8_000
MU = 255.0


def overloaded(sound: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The peaks cut off, as by a microphone that is too near."""
    ceiling = np.abs(sound).max() * np.float32(10.0 ** (-rng.uniform(*OVERLOAD_DB) / 20.0))
    clipped: FloatArray = np.clip(sound, -ceiling, ceiling)
    return clipped


def over_the_telephone(sound: FloatArray, sample_rate_hz: int) -> FloatArray:
    """Eight thousand samples a second of eight bits each, logarithmic.

    Source: ITU-T G.711, mu-law (its formula, without the segments).
    """
    peak = np.abs(sound).max()
    if peak == 0.0:
        return sound
    narrow = soxr.resample(sound / peak, sample_rate_hz, TELEPHONE_RATE_HZ, quality="MQ")
    steps = np.rint(127.0 * np.sign(narrow) * np.log1p(MU * np.minimum(np.abs(narrow), 1.0)) / np.log1p(MU)) / 127.0
    coded = np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU
    wide = soxr.resample(coded.astype(np.float32), TELEPHONE_RATE_HZ, sample_rate_hz, quality="MQ")
    fitted: FloatArray = np.pad(wide, (0, max(0, len(sound) - len(wide))))[: len(sound)] * peak
    return fitted
