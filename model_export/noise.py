"""Noise that nobody recorded: what a microphone hears when there is nothing to tell.

Out: float32 samples in [-1, 1]. Used as `background` in training, and as the ground of the demo's street.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from agent.values import FloatArray

VOWELS_HZ = (  # of men; the other voices are scaled
    (270.0, 2_290.0, 3_010.0),
    (390.0, 1_990.0, 2_550.0),
    (530.0, 1_840.0, 2_480.0),
    (660.0, 1_720.0, 2_410.0),
    (730.0, 1_090.0, 2_440.0),
    (570.0, 840.0, 2_410.0),
    (440.0, 1_020.0, 2_240.0),
    (300.0, 870.0, 2_240.0),
    (490.0, 1_350.0, 1_690.0),
)
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


def speech(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Somebody talks, and no word of it can be understood, of RMS 1: voiced and hissed syllables, with pauses.

    A voice is a train of pulses, a hiss is noise; both go through three formants of a vowel that changes with each
    syllable.

    Source: formants and pitches of Peterson and Barney, 1952; source and filter, Fant, 1960.
    """
    pitch_hz, size = rng.uniform(90.0, 260.0), rng.uniform(0.95, 1.25)
    sound = np.zeros(n_samples)
    start = -int(rng.integers(0, sample_rate_hz // 2))
    while start < n_samples:
        length = int(rng.uniform(0.08, 0.28) * sample_rate_hz)
        time_s = np.arange(length) / sample_rate_hz
        if rng.random() < 0.75:
            glide_hz = pitch_hz * rng.uniform(0.85, 1.2) * (1.0 + rng.uniform(-0.2, 0.1) * time_s / time_s[-1])
            phase = np.cumsum(glide_hz) / sample_rate_hz
            source = np.diff(np.floor(phase), prepend=0.0) + 0.02 * rng.standard_normal(length)
            vowel_hz = VOWELS_HZ[int(rng.integers(len(VOWELS_HZ)))]
            spoken = np.zeros(length)
            for number, formant_hz in enumerate(vowel_hz):
                radius = np.exp(-np.pi * (60.0 + 40.0 * number) / sample_rate_hz)
                poles = 2.0 * radius * np.cos(2 * np.pi * size * formant_hz / sample_rate_hz)
                spoken += signal.lfilter([1.0 - radius], [1.0, -poles, radius**2], source) / (1.0 + number)
        else:
            low_hz = rng.uniform(2_000.0, 4_500.0)
            hiss = signal.butter(2, [low_hz, min(1.6 * low_hz, 0.45 * sample_rate_hz)], "bandpass", fs=sample_rate_hz)
            spoken = signal.lfilter(*hiss, rng.standard_normal(length))
        spoken *= rng.uniform(0.3, 1.0) * np.hanning(length) / (np.sqrt(np.mean(spoken**2)) + 1e-12)
        first, last = max(start, 0), min(start + length, n_samples)
        if first < last:
            sound[first:last] += spoken[first - start : last - start]
        start += int(length * rng.uniform(0.7, 1.1))
        if rng.random() < 0.12:
            start += int(rng.uniform(0.1, 0.6) * sample_rate_hz)
    return _rms_1(sound)


def background(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """One draw of noise: a colour, hum, wind, speech, a mixture of them, or digital silence; at any level.

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
    if rng.random() < 0.3:
        sound = rng.uniform(0.0, 0.5) * sound + speech(n_samples, sample_rate_hz, rng)
    level_db = rng.uniform(-80.0, -12.0)
    clipped: FloatArray = np.clip(sound * 10.0 ** (level_db / 20.0), -1.0, 1.0).astype(np.float32)
    return clipped


def _rms_1(sound: NDArray[np.float64]) -> FloatArray:
    scaled: FloatArray = (sound / np.sqrt(np.mean(sound**2))).astype(np.float32)
    return scaled
