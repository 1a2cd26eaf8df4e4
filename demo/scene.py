"""A street scene made by formulas: no recording is in the project, and none is needed to see it work.

Out: float32 samples in [-1, 1] and the list of what sounds when. The sounds imitate how the real ones are made (a horn
is two buzzing discs, a siren a sweeping oscillator, a bark a short voiced burst); the model has only heard real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from agent.values import FloatArray
from model_export.noise import coloured, wind

SAMPLE_RATE_HZ = 32_000
GROUND_RMS_DB = -48.0
SEED = 8

Sound = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sounding:
    """One sound of the scene.

    Attributes:
        label: what it imitates.
        onset_s: when it begins.
        duration_s: how long it lasts.
        level_db: its RMS, relative to full scale.
    """

    label: str
    onset_s: float
    duration_s: float
    level_db: float


STREET = (
    Sounding("siren", 4.0, 8.0, -24.0),
    Sounding("jackhammer", 18.0, 7.0, -22.0),
    Sounding("dog_bark", 31.0, 4.0, -22.0),
    Sounding("car_horn", 41.0, 2.5, -20.0),
    Sounding("street_music", 50.0, 8.0, -26.0),
)
STREET_DURATION_S = 64.0


def siren(n: int, rng: np.random.Generator) -> Sound:
    """A wail: an oscillator that sweeps up and down in four seconds, through a horn loudspeaker."""
    time_s = np.arange(n) / SAMPLE_RATE_HZ
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * time_s / 4.0)
    pitch_hz = 600.0 + 800.0 * sweep
    return _band(_harmonics(pitch_hz, 12, slope=1.0), 400.0, 5_000.0)


def car_horn(n: int, rng: np.random.Generator) -> Sound:
    """Two buzzing discs a third apart."""
    steady = np.ones(n)
    return _band(_harmonics(420.0 * steady, 20, slope=0.6) + _harmonics(510.0 * steady, 20, slope=0.6), 350.0, 6_000.0)


def dog_bark(n: int, rng: np.random.Generator) -> Sound:
    """Short voiced bursts with falling pitch and breath, twice a second."""
    sound = np.zeros(n)
    start = 0
    while start < n:
        length = int(rng.uniform(0.16, 0.22) * SAMPLE_RATE_HZ)
        time_s = np.arange(length) / SAMPLE_RATE_HZ
        pitch_hz = rng.uniform(430.0, 520.0) * (1.0 + 0.35 * np.sin(np.pi * time_s / time_s[-1]))
        voiced = _harmonics(pitch_hz, 14, slope=0.5) + 0.8 * rng.standard_normal(length)
        throat = _band(voiced, 450.0, 2_600.0)
        bark = throat * np.minimum(1.0, time_s / 0.012) * np.exp(-time_s / 0.07)
        stop = min(n, start + length)
        sound[start:stop] += bark[: stop - start]
        start += int(rng.uniform(0.42, 0.6) * SAMPLE_RATE_HZ)
    return sound


def jackhammer(n: int, rng: np.random.Generator) -> Sound:
    """Steel on stone some seventeen times a second, and the air that drives it."""
    blows = np.zeros(n)
    at = 0.0
    while at < n:
        blows[int(at)] = rng.uniform(0.7, 1.0)
        at += SAMPLE_RATE_HZ / rng.uniform(16.0, 18.0)
    time_s = np.arange(int(0.08 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    ring = sum(np.sin(2 * np.pi * hz * time_s) for hz in (310.0, 870.0, 1_640.0, 2_950.0, 4_300.0))
    blow = (rng.standard_normal(len(time_s)) + 0.5 * ring) * np.exp(-time_s / 0.006)
    hammering = signal.fftconvolve(blows, blow)[:n]
    with_air: Sound = hammering / np.std(hammering) + 0.2 * coloured("pink", n, rng)
    return with_air


def street_music(n: int, rng: np.random.Generator) -> Sound:
    """Somebody plays a tune in plucked chords over a beat."""
    sound = np.zeros(n)
    beat = int(0.25 * SAMPLE_RATE_HZ)
    chords = ((196.0, 247.0, 294.0), (220.0, 262.0, 330.0), (262.0, 330.0, 392.0), (147.0, 220.0, 294.0))
    for index, start in enumerate(range(0, n, beat)):
        length = min(n - start, 3 * beat)
        time_s = np.arange(length) / SAMPLE_RATE_HZ
        chord = chords[(index // 8) % len(chords)]
        melody_hz = chord[int(rng.integers(3))] * rng.choice([2.0, 2.0, 4.0])
        for hz in (*chord, melody_hz) if index % 2 == 0 else (melody_hz,):
            strength = 1.0 if hz == melody_hz else 0.4
            tone = _harmonics(np.full(length, hz), 8, slope=1.3)
            sound[start : start + length] += strength * tone * np.exp(-time_s / 0.35)
        if index % 2 == 0:
            hit = rng.standard_normal(length) * np.exp(-time_s / 0.03)
            sound[start : start + length] += 0.5 * hit
    return sound


SOUNDS: dict[str, Callable[[int, np.random.Generator], Sound]] = {
    "siren": siren,
    "car_horn": car_horn,
    "dog_bark": dog_bark,
    "jackhammer": jackhammer,
    "street_music": street_music,
}


def render(
    soundings: tuple[Sounding, ...] = STREET, duration_s: float = STREET_DURATION_S, *, seed: int = SEED
) -> FloatArray:
    """Mix the soundings over distant traffic and wind, each with the echo of the houses.

    Returns:
        float32 (n,), at `SAMPLE_RATE_HZ`, in [-1, 1].
    """
    rng = np.random.default_rng(seed)
    n = round(duration_s * SAMPLE_RATE_HZ)
    ground = coloured("brown", n, rng) + 0.5 * coloured("pink", n, rng) + 0.5 * wind(n, SAMPLE_RATE_HZ, rng)
    street = _at_level(ground.astype(np.float64), GROUND_RMS_DB)
    for sounding in soundings:
        length = round(sounding.duration_s * SAMPLE_RATE_HZ)
        sound = _at_level(_faded(_echoed(SOUNDS[sounding.label](length, rng), rng)), sounding.level_db)
        start = round(sounding.onset_s * SAMPLE_RATE_HZ)
        street[start : start + len(sound)] += sound
    clipped: FloatArray = np.clip(street, -1.0, 1.0).astype(np.float32)
    return clipped


def _harmonics(pitch_hz: Sound, n_harmonics: int, *, slope: float) -> Sound:
    """Harmonics of a moving pitch, their strength falling as 1 / k^slope; none above the Nyquist frequency."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    sound = np.zeros(len(pitch_hz))
    for k in range(1, n_harmonics + 1):
        if k * pitch_hz.max() < SAMPLE_RATE_HZ / 2:
            sound += np.sin(k * phase) / k**slope
    return sound


def _band(sound: Sound, low_hz: float, high_hz: float) -> Sound:
    sections = signal.butter(2, (low_hz, high_hz), btype="bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    filtered: Sound = signal.sosfilt(sections, sound)
    return filtered


def _echoed(sound: Sound, rng: np.random.Generator) -> Sound:
    """A street's reverberation: decaying noise after the direct sound."""
    time_s = np.arange(int(0.5 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    impulse = 0.03 * rng.standard_normal(len(time_s)) * np.exp(-time_s / 0.09)
    impulse[0] = 1.0
    echoed: Sound = signal.fftconvolve(sound, impulse)[: len(sound)]
    return echoed


def _faded(sound: Sound) -> Sound:
    edge = np.minimum(1.0, np.arange(len(sound)) / (0.02 * SAMPLE_RATE_HZ))
    return sound * edge * edge[::-1]


def _at_level(sound: Sound, level_db: float) -> Sound:
    scaled: Sound = sound / np.sqrt(np.mean(sound**2)) * 10.0 ** (level_db / 20.0)
    return scaled
