"""What lies between a street sound and the samples."""

import numpy as np
import pytest

from agent.values import FloatArray
from model_export import impairments

RATE_HZ = 16_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def tone(frequency_hz: float) -> FloatArray:
    samples: FloatArray = (0.1 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    return samples


def test_an_overload_cuts_the_peaks_off(rng: np.random.Generator) -> None:
    """Nothing reaches higher than the ceiling, and much reaches it; what is below stays."""
    sound = tone(440.0)

    clipped = impairments.overloaded(sound, rng)

    ceiling = np.abs(clipped).max()
    assert ceiling < 0.8 * np.abs(sound).max()
    assert np.mean(np.abs(clipped) == ceiling) > 0.2
    below = np.abs(sound) < ceiling
    np.testing.assert_array_equal(clipped[below], sound[below])


def test_the_telephone_takes_what_is_high() -> None:
    """A tone of 1 kHz comes through, one of 6 kHz does not; what comes through has steps."""
    low, high = (impairments.over_the_telephone(tone(frequency_hz), RATE_HZ) for frequency_hz in (1_000.0, 6_000.0))

    inner = slice(1_000, -1_000)
    assert np.std(low[inner]) == pytest.approx(np.std(tone(1_000.0)), rel=0.05)
    assert np.std(high[inner]) < 0.02 * np.std(tone(6_000.0))
    assert 0.0 < np.abs(low[inner] - tone(1_000.0)[inner]).max() < 0.02


def test_silence_stays_silence(rng: np.random.Generator) -> None:
    """Nothing is not a number, and nothing is heard where there is nothing."""
    silence = np.zeros(RATE_HZ, np.float32)

    for heard in (
        impairments.overloaded(silence, rng),
        impairments.over_the_telephone(silence, RATE_HZ),
    ):
        np.testing.assert_array_equal(heard, silence)
