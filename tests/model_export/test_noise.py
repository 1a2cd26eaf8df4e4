"""Noise that nobody recorded."""

import numpy as np
import pytest

from model_export import noise

RATE_HZ = 16_000


@pytest.mark.parametrize(("colour", "slope_db_per_octave"), [("white", 0), ("pink", -3), ("brown", -6), ("blue", 3)])
def test_a_colour_has_its_slope(colour: str, slope_db_per_octave: float) -> None:
    """The power of coloured noise falls or rises by its decibels an octave."""
    sound = noise.coloured(colour, 1 << 17, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(sound)) ** 2
    octaves = [10 * np.log10(power[1 << k : 1 << (k + 1)].mean()) for k in range(8, 16)]

    assert np.polyfit(range(8), octaves, 1)[0] == pytest.approx(slope_db_per_octave, abs=0.3)


@pytest.mark.parametrize("make", [noise.hum, noise.wind, noise.speech])
def test_hum_wind_and_speech_have_a_level_of_one(make: object) -> None:
    """Sounds come at RMS 1, so that whoever mixes them sets the level."""
    assert callable(make)
    sound = make(RATE_HZ, RATE_HZ, np.random.default_rng(1))

    assert np.sqrt(np.mean(sound**2)) == pytest.approx(1.0, abs=1e-3)


def test_speech_has_syllables_and_the_formants_of_a_voice() -> None:
    """Its loudness moves some two to eight times a second, and most of it lies where voices are."""
    sound = noise.speech(8 * RATE_HZ, RATE_HZ, np.random.default_rng(2))

    loudness = np.sqrt(np.mean(sound.reshape(-1, RATE_HZ // 100) ** 2, axis=1))  # 100 values a second
    spectrum = np.abs(np.fft.rfft(loudness - loudness.mean())) ** 2
    moves_hz = np.fft.rfftfreq(len(loudness), 0.01)
    syllables = spectrum[(moves_hz > 1.5) & (moves_hz < 10.0)].sum()
    assert syllables > 0.5 * spectrum.sum()
    power = np.abs(np.fft.rfft(sound)) ** 2
    heard_hz = np.fft.rfftfreq(len(sound), 1 / RATE_HZ)
    assert power[(heard_hz > 80.0) & (heard_hz < 5_000.0)].sum() > 0.8 * power.sum()


def test_background_is_reproducible_and_in_range() -> None:
    """The same seed gives the same noise, and none is beyond full scale."""
    draws = [noise.background(4_000, RATE_HZ, np.random.default_rng(seed)) for seed in (3, 3, 4)]

    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all(np.abs(draw).max() <= 1.0 for draw in draws)
