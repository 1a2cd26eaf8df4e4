"""Promises of `agent.resampler`: no sample is lost, doubled or moved, and nobody hears where it begins anew."""

import math

import numpy as np
import pytest

from agent.resampler import LEAD_S, STEPS_PER_S, Resampler
from agent.values import FloatArray

RATES_HZ = [8_000, 11_025, 22_050, 44_100, 48_000, 96_000]
TO_RATE_HZ = 16_000
PERIOD_S = 2


def steps_of(samples: FloatArray, rate_hz: int) -> list[FloatArray]:
    """Steps of a tenth of a second, of which each tenth begins a second; the last is shorter."""
    n_steps = len(samples) * STEPS_PER_S // rate_hz
    edges = [math.ceil(step * rate_hz / STEPS_PER_S) for step in range(n_steps + 1)]
    return np.split(samples, edges[1:])


def resampled(samples: FloatArray, rate_hz: int) -> FloatArray:
    resampler = Resampler(rate_hz, TO_RATE_HZ, PERIOD_S)
    *steps, rest = steps_of(samples, rate_hz)
    return np.concatenate([*(resampler.push(step) for step in steps), resampler.flush(rest)])


def tone(rate_hz: int, length_s: float) -> FloatArray:
    times_s = np.arange(round(rate_hz * length_s)) / rate_hz
    wave: FloatArray = (0.5 * np.sin(2 * np.pi * 997.0 * times_s)).astype(np.float32)
    return wave


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_goes_on_over_every_seam(rate_hz: int) -> None:
    """Over four periods a tone is at each sample what it would be at the other rate; nothing is missing at the end."""
    given = resampled(tone(rate_hz, 8.37), rate_hz)

    expected = tone(TO_RATE_HZ, 8.37)
    assert len(given) == pytest.approx(len(expected), abs=1)
    inner = slice(TO_RATE_HZ // 10, -TO_RATE_HZ // 10)  # a tone that begins or ends hard rings
    np.testing.assert_allclose(given[inner], expected[: len(given)][inner], atol=2e-4)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_who_joins_at_a_period_is_given_the_same(rate_hz: int) -> None:
    """From the end of the lead on, the samples are those of the whole stream, to the last bit."""
    samples = np.random.default_rng(4).normal(0.0, 0.1, round(7.7 * rate_hz)).astype(np.float32)
    whole = resampled(samples, rate_hz)

    joined = resampled(samples[PERIOD_S * rate_hz :], rate_hz)

    lead = LEAD_S * TO_RATE_HZ
    assert joined[lead:].tobytes() == whole[PERIOD_S * TO_RATE_HZ + lead :].tobytes()


def test_after_a_gap_it_is_as_new() -> None:
    """Nothing from before a reset is heard after it."""
    used = Resampler(48_000, TO_RATE_HZ, PERIOD_S)
    for step in steps_of(tone(48_000, 3.35), 48_000)[:-1]:
        used.push(step)
    used.reset()
    samples = np.random.default_rng(4).normal(0.0, 0.1, 48_000 * 4).astype(np.float32)
    *steps, rest = steps_of(samples, 48_000)

    after = np.concatenate([*map(used.push, steps), used.flush(rest)])

    assert after.tobytes() == resampled(samples, 48_000).tobytes()
