"""Many channels to one."""

import numpy as np
import pytest

from agent.mono import Channel, to_mono

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("channel", "expected", "n_invalid"),
    [("mix", [0.5, 0.0, 0.25], 2), (1, [1.0, 0.0, 0.0], 1), (2, [0.0, 0.0, 0.5], 1)],
)
def test_one_channel_or_the_mean_of_all(channel: Channel, expected: list[float], n_invalid: int) -> None:
    """The mix is the mean; what is not a number is silence, and is counted where it is heard."""
    samples = np.array([[1.0, 0.0], [NAN, 0.0], [0.0, 0.5]], np.float32)
    samples[1, 1] = INF

    mono, counted = to_mono(samples, channel)

    np.testing.assert_array_equal(mono, np.array(expected, np.float32))
    assert mono.dtype == np.float32
    assert counted == n_invalid


def test_what_is_too_large_to_be_sound_is_silence() -> None:
    """A damaged float may be finite and yet have no finite spectrum, or no mean with another."""
    samples = np.array([[0.5, 0.25], [3e38, 3e38], [-1e30, 0.5], [32768.0, -32768.0]], np.float32)

    mono, counted = to_mono(samples, "mix")

    np.testing.assert_array_equal(mono, np.array([0.375, 0.0, 0.25, 0.0], np.float32))
    assert counted == 3


def test_what_is_given_stays_as_it_was() -> None:
    """The caller's samples are not changed."""
    samples = np.array([[NAN, 1.0]], np.float32)

    to_mono(samples, "mix")

    assert np.isnan(samples[0, 0])
