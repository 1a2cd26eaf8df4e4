"""Promises of `agent.level`: the levels of IEC 61672, the same however a stream is cut or joined."""

from collections.abc import Sequence

import numpy as np
import pytest

from agent.level import (
    BACKGROUND_S,
    LEAST_BACKGROUND_S,
    PERIOD_S,
    LevelMeter,
    Levels,
    a_weighting,
    response,
    statistics,
)
from agent.values import AudioBlock, FloatArray, LevelReading, SoundEvent

RATE_HZ = 48_000
# IEC 61672-1:2013, table 3: frequency, A-weighting, and how far class 1 may lie above and below.
WEIGHTS = [
    (31.5, -39.4, 1.5, 1.5),
    (63.0, -26.2, 1.0, 1.0),
    (125.0, -16.1, 1.0, 1.0),
    (250.0, -8.6, 1.0, 1.0),
    (500.0, -3.2, 1.0, 1.0),
    (1_000.0, 0.0, 0.7, 0.7),
    (2_000.0, 1.2, 1.0, 1.0),
    (4_000.0, 1.0, 1.0, 1.0),
    (8_000.0, -1.1, 1.5, 2.5),
    (12_500.0, -4.3, 2.0, 5.0),
    (16_000.0, -6.6, 2.5, 16.0),
]
# Table 4: by how much the largest F level of a short tone of 4 kHz is below that of a steady one.
BURSTS = [
    (1.0, 0.0),
    (0.2, -1.0),
    (0.1, -2.6),
    (0.05, -4.8),
    (0.02, -8.3),
    (0.01, -11.1),
    (0.002, -18.0),
    (0.001, -21.0),
]


def tone(frequency_hz: float, duration_s: float, amplitude: float = 1.0, rate_hz: int = RATE_HZ) -> FloatArray:
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def db(square: float) -> float:
    """Relative to a sine at full scale."""
    return float(10 * np.log10(2 * square))


def readings_of(
    samples: FloatArray, rate_hz: int = RATE_HZ, *, sizes: Sequence[int] = (4_800,), first_sample: int = 0
) -> list[LevelReading]:
    meter, readings, begin = LevelMeter(rate_hz), [], 0
    while begin < len(samples):
        size = sizes[begin % len(sizes)]
        readings += meter.push(AudioBlock(samples[begin : begin + size], first_sample + begin))
        begin += size
    return readings


def event(onset_s: float, offset_s: float | None, heard_until_s: float, rate_hz: int = RATE_HZ) -> SoundEvent:
    return SoundEvent(
        id=0,
        state="update" if offset_s is None else "end",
        label="siren",
        onset=round(onset_s * rate_hz),
        offset=None if offset_s is None else round(offset_s * rate_hz),
        heard_until=round(heard_until_s * rate_hz),
        likelihood_peak=0.9,
        likelihood_mean=0.8,
    )


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_tones_weigh_what_the_standard_says(rate_hz: int) -> None:
    """Class 1, with 0.2 dB to spare, at every rate, up to nine tenths of what the rate can hold."""
    rows = [row for row in WEIGHTS if row[0] < 0.45 * rate_hz]

    heard = response(a_weighting(rate_hz), np.array([row[0] for row in rows]), rate_hz)

    for (frequency_hz, weight_db, above_db, below_db), level_db in zip(rows, 20 * np.log10(abs(heard)), strict=True):
        assert weight_db - below_db + 0.2 < level_db < weight_db + above_db - 0.2, frequency_hz


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_a_steady_tone_has_its_level(rate_hz: int) -> None:
    """A sine of 1 kHz at a tenth of full scale is 20 dB below it, by each of the three measures."""
    last = readings_of(tone(1_000.0, 3.0, 0.1, rate_hz), rate_hz)[-1]

    for square in (last.mean_square, last.fast_max, last.fast):
        assert db(square) == pytest.approx(-20.0, abs=0.05)


@pytest.mark.parametrize(("duration_s", "below_db"), BURSTS)
def test_short_tones_reach_what_the_standard_says(duration_s: float, below_db: float) -> None:
    """The time weighting F, within 0.1 dB."""
    steady = tone(4_000.0, 3.0)
    burst = np.zeros_like(steady)
    burst[RATE_HZ : RATE_HZ + round(duration_s * RATE_HZ)] = steady[: round(duration_s * RATE_HZ)]

    largest = [max(reading.fast_max for reading in readings_of(samples)) for samples in (burst, steady)]

    assert db(largest[0]) - db(largest[1]) == pytest.approx(below_db, abs=0.1)


@pytest.mark.parametrize("rate_hz", [11_025, 22_050, 48_000])
def test_slices_follow_one_another_without_a_hole(rate_hz: int) -> None:
    """Eight a second, also where that is no whole number of samples; what is begun at the end is not measured."""
    readings = readings_of(np.zeros(3 * rate_hz + 100, np.float32), rate_hz, first_sample=7)

    ends = [reading.first_sample + reading.n_samples for reading in readings]
    assert [reading.first_sample for reading in readings] == [7, *ends[:-1]]
    assert (len(readings), ends[-1]) == (24, 7 + 3 * rate_hz)


def test_readings_do_not_depend_on_blocks_or_on_where_a_stream_is_joined() -> None:
    """To the last bit: what was heard a period earlier is no part of a level."""
    rate_hz = 22_050
    samples = np.random.default_rng(1).normal(0.0, 0.1, 35 * rate_hz).astype(np.float32)
    samples[: 5 * rate_hz] *= 8.0

    whole = readings_of(samples, rate_hz)
    joined = readings_of(samples[PERIOD_S * rate_hz :], rate_hz, first_sample=PERIOD_S * rate_hz)

    assert whole == readings_of(samples, rate_hz, sizes=(1, 7, 30_000, 441))
    assert joined[8:] == whole[8 * PERIOD_S + 8 :]


def test_statistics_are_those_of_all_slices() -> None:
    """The mean of the squares, the largest, and what was exceeded for 10, 50 and 90 % of the time."""
    squares = [1e-4] * 70 + [1e-2] * 30
    readings = [
        LevelReading(6_000 * number, 6_000, square, 2 * square, square) for number, square in enumerate(squares)
    ]

    of_all = statistics(readings)

    assert of_all.mean_square == pytest.approx(0.7e-4 + 0.3e-2)
    assert (of_all.fast_max, of_all.fast_10, of_all.fast_50, of_all.fast_90) == (2e-2, 1e-2, 1e-4, 1e-4)


@pytest.fixture
def levels() -> Levels:
    """30 s at -60 dB, 5 s at -20 dB, 10 s at -60 dB."""
    levels = Levels(RATE_HZ, keep_s=60.0)
    loudness = [(30.0, 1e-3), (5.0, 0.1), (10.0, 1e-3)]
    samples = np.concatenate([tone(1_000.0, duration_s, amplitude) for duration_s, amplitude in loudness])
    levels.push(AudioBlock(samples, 0))
    return levels


def test_an_event_has_its_own_level_and_what_was_before(levels: Levels) -> None:
    """Equivalent and largest level of the event, and the background of the minute before, or as much as there was."""
    level = levels.measured(event(30.0, 35.0, 36.0)).level

    assert level is not None
    assert level.background is not None
    assert db(level.mean_square) == pytest.approx(-20.0, abs=0.1)
    assert db(level.fast_max) == pytest.approx(-20.0, abs=0.1)
    assert db(level.background) == pytest.approx(-60.0, abs=0.1)
    assert level.n_samples == 5 * RATE_HZ


def test_an_open_event_is_measured_as_far_as_it_was_heard(levels: Levels) -> None:
    """Not what has come in since, which a recording has and a microphone has not yet."""
    level = levels.measured(event(28.0, None, 30.0)).level

    assert level is not None
    assert db(level.mean_square) == pytest.approx(-60.0, abs=0.1)
    assert level.n_samples == 2 * RATE_HZ


def test_the_background_needs_some_seconds(levels: Levels) -> None:
    """Less than ten of them say too little."""
    known, unknown = (
        levels.measured(event(onset_s, 40.0, 41.0)).level for onset_s in (LEAST_BACKGROUND_S, LEAST_BACKGROUND_S - 0.2)
    )

    assert known is not None
    assert unknown is not None
    assert (known.background is None, unknown.background is None) == (False, True)


def test_what_is_shorter_than_a_slice_has_no_level(levels: Levels) -> None:
    """And so has an event of whose end nothing is known yet."""
    assert levels.measured(event(3.01, 3.05, 4.0)).level is None
    assert levels.measured(event(3.0, None, 3.1)).level is None


def test_old_readings_are_let_go() -> None:
    """Memory does not grow; the longest event has still all that it needs, and a gap makes a fresh beginning."""
    levels = Levels(RATE_HZ, keep_s=20.0)
    for second in range(400):
        levels.push(AudioBlock(tone(1_000.0, 1.0, 0.1 if second >= 380 else 1e-3), second * RATE_HZ))
    level = levels.measured(event(380.0, 400.0, 400.0)).level
    levels.reset()

    assert level is not None
    assert level.background is not None
    assert db(level.mean_square) == pytest.approx(-20.0, abs=0.1)
    assert db(level.background) == pytest.approx(-60.0, abs=0.1)
    assert level.n_samples == 20 * RATE_HZ
    assert levels.measured(event(380.0, 400.0, 400.0)).level is None


def test_a_longer_event_is_kept_from_when_it_may_be_so_long() -> None:
    """The site's rules may change while it hears."""
    levels = Levels(8_000, keep_s=1.0)
    levels.keep(3 * BACKGROUND_S)
    for second in range(4 * BACKGROUND_S):
        levels.push(AudioBlock(tone(1_000.0, 1.0, 0.1, 8_000), second * 8_000))

    level = levels.measured(event(0.0, 4.0 * BACKGROUND_S, 4.0 * BACKGROUND_S, 8_000)).level

    assert level is not None
    assert level.n_samples == 4 * BACKGROUND_S * 8_000
