"""A sound for tests that spread work over processes: the network says something else of it each time."""

import numpy as np

from agent.values import FloatArray


def wail(duration_s: float, sample_rate_hz: int, *, quietest: float, noise: float = 0.0) -> FloatArray:
    """A wail that comes and goes, in noise or without.

    Args:
        duration_s: how long.
        sample_rate_hz: of the samples.
        quietest: the lowest level, as the logarithm of the amplitude; the highest is -0.5.
        noise: its deviation, where the wail has an amplitude of 1.

    Returns:
        float32 (n_samples,), in [-1, 1].
    """
    rng = np.random.default_rng(8)
    times_s = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    levels = 10.0 ** rng.uniform(quietest, -0.5, round(duration_s) + 2)
    tone = np.sin(2 * np.pi * (1000.0 * times_s + 60.0 * np.sin(2 * np.pi * 0.4 * times_s)))
    loudness = np.interp(times_s, np.arange(len(levels)), levels)
    mixed: FloatArray = (loudness * (tone + rng.normal(0.0, noise, len(times_s)))).astype(np.float32)
    return np.clip(mixed, -1.0, 1.0)
