"""Cutting, joining and levels."""

import numpy as np
import pytest

from agent.values import FloatArray
from model_export.mixing import SILENT_DB, audible, edged, joined, loudness_db, scaled

RATE_HZ = 32_000


def sine(hz: float, seconds: float = 1.0) -> FloatArray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ).astype(np.float32)


@pytest.mark.parametrize(("hz", "weight_db"), [(100.0, -19.1), (1_000.0, 0.0), (4_000.0, 1.0), (8_000.0, -1.1)])
def test_loudness_is_a_weighted(hz: float, weight_db: float) -> None:
    """The weights of IEC 61672-1, to its rounding, on a sine whose level is 3 dB below full scale."""
    assert loudness_db(sine(hz, 1.0137), RATE_HZ) == pytest.approx(weight_db - 3.01, abs=0.1)


def test_silence_has_a_level() -> None:
    """Digital silence is very quiet, and no error."""
    assert loudness_db(np.zeros(1_000, np.float32), RATE_HZ) == SILENT_DB


def test_a_gain_is_in_decibels() -> None:
    """Louder by 6 dB is louder by 6 dB."""
    assert loudness_db(scaled(sine(440.0), -6.0), RATE_HZ) == pytest.approx(loudness_db(sine(440.0), RATE_HZ) - 6.0)


def test_silence_around_a_sound_is_cut_off() -> None:
    """What is left begins and ends with the sound, within a frame of 20 ms; a short pause stays in it."""
    silence = np.zeros(RATE_HZ // 2, np.float32)
    faint = scaled(sine(440.0), -50.0)

    left = audible(np.concatenate([silence, faint, sine(440.0), silence, sine(440.0), silence]), RATE_HZ)

    assert len(left) / RATE_HZ == pytest.approx(2.5, abs=0.041)
    assert np.abs(left[: RATE_HZ // 50]).max() > 0.9


def test_a_long_pause_parts_two_sounds() -> None:
    """Of two barks with a second and more between them, the longer one is left."""
    silence = np.zeros(round(1.2 * RATE_HZ), np.float32)

    left = audible(np.concatenate([sine(440.0, 0.2), silence, sine(440.0, 0.6), silence]), RATE_HZ)

    assert len(left) / RATE_HZ == pytest.approx(0.6, abs=0.041)


def test_nothing_is_left_of_silence() -> None:
    """A clip of zeros has no sound in it."""
    assert len(audible(np.zeros(1_000, np.float32), RATE_HZ)) == 0


def test_pieces_are_joined_without_a_dip() -> None:
    """As long as asked for, from the first piece's first sample on; the power is even over the seams."""
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal(RATE_HZ).astype(np.float32) for _ in range(2)]

    sound = joined(pieces, 5 * RATE_HZ, RATE_HZ)

    power = np.mean(sound.reshape(-1, RATE_HZ // 10) ** 2, axis=1)
    assert len(sound) == 5 * RATE_HZ
    np.testing.assert_array_equal(sound[: RATE_HZ // 2], pieces[0][: RATE_HZ // 2])
    assert power.min() > 0.85
    assert power.max() < 1.15


def test_one_long_piece_is_cut() -> None:
    """Nothing is faded where nothing is joined."""
    np.testing.assert_array_equal(joined([sine(440.0, 2.0)], RATE_HZ, RATE_HZ), sine(440.0, 2.0)[:RATE_HZ])


def test_a_cut_does_not_click() -> None:
    """First and last sample are all but silent, the middle is as it was."""
    sound = edged(np.ones(RATE_HZ, np.float32), RATE_HZ)

    assert sound[0] < 0.01
    assert sound[-1] < 0.01
    assert (sound[200:-200] == 1.0).all()
