"""What lies between a street sound and the samples: a room or a street canyon, an overload, a low-rate codec.

In: samples. Out: as many samples. Drawn at random, for training.
"""

import numpy as np
import soxr
from scipy import signal

from agent.values import FloatArray

RT60_S = (0.1, 0.9)  # from a courtyard with plants to an underpass
DIRECT_TO_REVERBERANT_DB = (-3.0, 15.0)
DELAY_S = 0.02  # of the first echo, at most
OVERLOAD_DB = (3.0, 20.0)  # by how much the peaks reach beyond full scale
TELEPHONE_RATE_HZ = 8_000
MU = 255.0


def in_a_room(sound: FloatArray, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """The direct sound and its reverberation: noise that decays by 60 dB in a time drawn from `RT60_S`.

    Args:
        sound: float32 (n,).
        sample_rate_hz: its rate.
        rng: where the randomness comes from.

    Source: Polack's model of late reverberation, 1988.
    """
    rt60_s, ratio_db = rng.uniform(*RT60_S), rng.uniform(*DIRECT_TO_REVERBERANT_DB)
    time_s = np.arange(round(rt60_s * sample_rate_hz)) / sample_rate_hz
    tail = rng.standard_normal(len(time_s)) * 10.0 ** (-3.0 * time_s / rt60_s)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.sqrt(np.sum(tail**2))
    delay = int(rng.uniform(0.0, DELAY_S) * sample_rate_hz)
    response = np.concatenate(([1.0], np.zeros(delay), tail)).astype(np.float32)
    heard: FloatArray = signal.fftconvolve(sound, response)[: len(sound)].astype(np.float32)
    return heard


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
