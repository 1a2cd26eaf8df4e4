"""Noise that nobody recorded: what a microphone hears when there is nothing to tell.

Out: float32 samples in [-1, 1]. Used as `background` in training, and as the ground of the demo's street.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from agent.values import FloatArray

COLOURS = {"white": 0.0, "pink": -1.0, "brown": -2.0, "blue": 1.0}  # slope of the power spectrum, log over log


def coloured(colour: str, n_samples: int, rng: np.random.Generator) -> FloatArray:
    """Noise with a power-law spectrum, of RMS 1.

    Args:
        colour: one of `COLOURS`.
        n_samples: length.
        rng: where the randomness comes from.
    """
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    steps = np.maximum(1.0, np.arange(len(spectrum)))
    shaped = np.fft.irfft(spectrum * steps ** (COLOURS[colour] / 2.0), n_samples)
    return _rms_1(shaped)


def hum(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Mains hum, of RMS 1: 50 or 60 Hz and its harmonics, falling."""
    mains_hz = rng.choice([50.0, 60.0])
    time_s = np.arange(n_samples) / sample_rate_hz
    sound = np.zeros(n_samples)
    for harmonic in range(1, 13):
        level = rng.uniform(0.2, 1.0) / harmonic
        sound += level * np.sin(2 * np.pi * mains_hz * harmonic * time_s + rng.uniform(0, 2 * np.pi))
    return _rms_1(sound)


def wind(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Wind on a capsule, of RMS 1: low-passed noise in gusts."""
    cutoff_hz = rng.uniform(80.0, 600.0)
    low = signal.lfilter(*signal.butter(2, cutoff_hz, fs=sample_rate_hz), rng.standard_normal(n_samples))
    gusts = 1.0 + rng.uniform(0.2, 0.9) * np.sin(
        2 * np.pi * rng.uniform(0.1, 0.8) * np.arange(n_samples) / sample_rate_hz + rng.uniform(0, 2 * np.pi)
    )
    sound = low * gusts
    return _rms_1(sound)


def background(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """One draw of noise: a colour, hum, wind, a mixture of them, or digital silence; at any level.

    Returns:
        float32 (n_samples,), clipped to [-1, 1].
    """
    if rng.random() < 0.05:
        return np.zeros(n_samples, np.float32)
    sound = rng.uniform(0.0, 1.0) * coloured(str(rng.choice(list(COLOURS))), n_samples, rng)
    if rng.random() < 0.4:
        sound = sound + rng.uniform(0.0, 1.0) * hum(n_samples, sample_rate_hz, rng)
    if rng.random() < 0.4:
        sound = sound + rng.uniform(0.0, 1.0) * wind(n_samples, sample_rate_hz, rng)
    level_db = rng.uniform(-80.0, -12.0)
    clipped: FloatArray = np.clip(sound * 10.0 ** (level_db / 20.0), -1.0, 1.0).astype(np.float32)
    return clipped


def _rms_1(sound: NDArray[np.float64]) -> FloatArray:
    scaled: FloatArray = (sound / np.sqrt(np.mean(sound**2))).astype(np.float32)
    return scaled
