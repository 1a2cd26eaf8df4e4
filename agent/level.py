"""How loud it is: A-weighted levels, an eighth of a second each, and of events.

In: blocks of samples, and events. Out: `LevelReading`s, their statistics, and events with their `SoundLevel`: squares
relative to full scale; what that is in decibels, calibration says. Stateful, for one stream; block sizes do not
matter. Called on the pipeline thread, by `replay` and its workers.

A filter never forgets quite, but sound of ten seconds ago is no part of a level. So each period of the stream is heard
by filters that were started from silence shortly before it: a level depends on the sound near it alone, and whoever
joins a stream in its middle gets the same readings to the last bit.

Source: IEC 61672-1:2013, A-weighting (annex E) and time weighting F. The sections are in closed form for any rate: high
passes by the bilinear transform, low passes matched at 0 and at half the rate (Vicanek, "Matched one-pole digital
shelving filters", 2019). Up to half the rate they stay within class 1.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.numerics import Doubles, filter_on
from agent.values import AudioBlock, LevelReading, LevelStatistics, SoundEvent, SoundLevel

SLICES_PER_S = 8
AT_ONCE = 8  # slices: more would not stay in the processor's cache
PERIOD_S = 10  # of sound for each pair of filters
LEAD_S = 1  # so much is heard before what counts: F has forgotten all but 35 dB less
FAST_S = 0.125
FAST_STEPS = 125  # of a slice, a millisecond each: finer would not be another level
BACKGROUND_S, LEAST_BACKGROUND_S = 60, 10  # before an event
HIGH_PASSES_HZ = (20.598997, 20.598997, 107.65265, 737.86223)
LOW_PASSES_HZ = (12_194.217, 12_194.217)
REFERENCE_HZ = 1_000.0  # of no weight
FAINTEST = 1e-20  # digital silence would be infinitely faint

Places = NDArray[np.int64]

_VALUES = 3  # of a slice
_FORGETS = np.exp(-1.0 / (SLICES_PER_S * FAST_STEPS * FAST_S))
_FAST = np.array([[1.0 - _FORGETS, 0.0, 0.0, 1.0, -_FORGETS, 0.0]])


def a_weighting(sample_rate_hz: int) -> Doubles:
    """The filter at this rate, of gain 1 at 1 kHz."""
    high = [_high_pass(corner_hz, sample_rate_hz) for corner_hz in HIGH_PASSES_HZ]
    low = [_low_pass(corner_hz, sample_rate_hz) for corner_hz in LOW_PASSES_HZ]
    passes = [*high, *low]
    pairs = zip(passes[::2], passes[1::2], strict=True)
    sections = np.array([[*np.polymul(one[0], other[0]), *np.polymul(one[1], other[1])] for one, other in pairs])
    sections[0, :3] /= abs(response(sections, np.array([REFERENCE_HZ]), sample_rate_hz)[0])
    return sections


def response(sections: Doubles, frequencies_hz: Doubles, sample_rate_hz: int) -> NDArray[np.complex128]:
    """What the sections make of tones; complex128 (n_frequencies,)."""
    turns = np.exp(-2j * np.pi * np.outer(frequencies_hz / sample_rate_hz, np.arange(3)))
    answer: NDArray[np.complex128] = np.prod((turns @ sections[:, :3].T) / (turns @ sections[:, 3:].T), axis=1)
    return answer


def _high_pass(corner_hz: float, rate_hz: int) -> tuple[list[float], list[float]]:
    k = np.tan(np.pi * corner_hz / rate_hz)
    return [1.0 / (1.0 + k), -1.0 / (1.0 + k)], [1.0, (k - 1.0) / (1.0 + k)]


def _low_pass(corner_hz: float, rate_hz: int) -> tuple[list[float], list[float]]:
    pole = np.exp(-2.0 * np.pi * corner_hz / rate_hz)
    at_half = (1.0 + pole) / np.hypot(1.0, rate_hz / 2 / corner_hz)
    return [(1.0 - pole + at_half) / 2, (1.0 - pole - at_half) / 2], [1.0, -pole]


class _Filters:
    """A-weighting, and F behind it, from silence on."""

    def __init__(self, sections: Doubles) -> None:
        self._sections = sections
        self._weighted_state, self._fast_state = np.zeros((len(sections), 2)), np.zeros((len(_FAST), 2))

    def hear(self, samples: Doubles, steps: Places) -> tuple[Doubles, Doubles, Doubles]:
        """What whole slices are, float64 (n_slices,) each.

        Args:
            samples: float64 (n,).
            steps: int64 (n_slices * FAST_STEPS + 1,), where each step of F begins, and the end.

        Returns:
            the mean squares of the weighted samples; of what F makes of them, the largest and the last.
        """
        squares = filter_on(self._sections, samples, self._weighted_state) ** 2
        sums, lengths = np.add.reduceat(squares, steps[:-1]), np.diff(steps)
        fast = filter_on(_FAST, sums / lengths, self._fast_state).reshape(-1, FAST_STEPS)
        n_samples = lengths.reshape(-1, FAST_STEPS).sum(axis=1)
        return sums.reshape(-1, FAST_STEPS).sum(axis=1) / n_samples, fast.max(axis=1), fast[:, -1]


class LevelMeter:
    """Measures one stream.

    Args:
        sample_rate_hz: the capture rate.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._sections = a_weighting(sample_rate_hz)
        self.reset()

    def reset(self) -> None:
        """There is a gap: forget the past."""
        self._begun = np.empty(0, np.float32)  # samples of a slice that is not whole yet
        self._origin = 0  # of the first slice, in the stream
        self._slices = 0  # that were heard
        self._now = _Filters(self._sections)
        self._next: _Filters | None = None

    def push(self, block: AudioBlock) -> list[LevelReading]:
        """Take samples; give the slices that they complete, in the order of time."""
        if self._slices == 0 and len(self._begun) == 0:
            self._origin = block.first_sample
        samples = np.concatenate((self._begun, block.samples))
        readings: list[LevelReading] = []
        while n := min(self._whole(len(samples)), self._until_change(), AT_ONCE):
            taken = edge(self._slices + n, self._rate_hz) - edge(self._slices, self._rate_hz)
            readings += self._heard(samples[:taken].astype(np.float64), n)
            samples = samples[taken:]
        self._begun = samples.copy()
        return readings

    def _whole(self, n_samples: int) -> int:
        """So many slices are whole, when so many samples are there."""
        return slice_at(edge(self._slices, self._rate_hz) + n_samples, self._rate_hz) - self._slices

    def _until_change(self) -> int:
        """So many slices are heard by the same filters."""
        in_period = self._slices % (PERIOD_S * SLICES_PER_S)
        lead = LEAD_S * SLICES_PER_S
        return lead - in_period if in_period < lead else PERIOD_S * SLICES_PER_S - in_period

    def _heard(self, samples: Doubles, n_slices: int) -> list[LevelReading]:
        in_period = self._slices % (PERIOD_S * SLICES_PER_S)
        if in_period == 0 and self._slices:
            self._next = _Filters(self._sections)
        elif in_period == LEAD_S * SLICES_PER_S and self._next is not None:
            self._now, self._next = self._next, None
        first, end = self._slices * FAST_STEPS, (self._slices + n_slices) * FAST_STEPS
        steps = np.arange(first, end + 1) * self._rate_hz // (SLICES_PER_S * FAST_STEPS)
        heard = self._now.hear(samples, steps - steps[0])
        if self._next is not None:
            self._next.hear(samples, steps - steps[0])
        self._slices += n_slices
        edges = (self._origin + steps[::FAST_STEPS]).tolist()
        return [
            LevelReading(begin, end - begin, *values)
            for begin, end, *values in zip(edges, edges[1:], *(one.tolist() for one in heard), strict=False)
        ]


class Levels:
    """How loud a stream was lately.

    Args:
        sample_rate_hz: the capture rate.
        keep_s: how long an event may be, with what passes until it is told.
    """

    def __init__(self, sample_rate_hz: int, *, keep_s: float) -> None:
        self._rate_hz = sample_rate_hz
        self._meter = LevelMeter(sample_rate_hz)
        self.keep(keep_s)
        self.reset()

    def keep(self, keep_s: float) -> None:
        """From now on, events may be so long."""
        self._most = round((keep_s + BACKGROUND_S) * SLICES_PER_S)

    def reset(self) -> None:
        """There is a gap: forget the past."""
        self._meter.reset()
        self._origin = 0  # of the first slice, in the stream
        self._dropped = 0  # slices that nobody will ask for any more
        self._values = array("d")  # of each slice since: mean square, largest F, last F

    def push(self, block: AudioBlock) -> list[LevelReading]:
        """Measure samples; give the slices that they complete, in the order of time."""
        readings = self._meter.push(block)
        for reading in readings:
            self.hear(reading)
        return readings

    def hear(self, reading: LevelReading) -> None:
        """Take what was measured, here or elsewhere; in the order of time."""
        if not self._values:
            self._origin = reading.first_sample
        self._values.extend((reading.mean_square, reading.fast_max, reading.fast))
        spare = len(self._values) // _VALUES - self._most
        if spare > self._most:  # now and then
            del self._values[: spare * _VALUES]
            self._dropped += spare

    def measured(self, event: SoundEvent) -> SoundEvent:
        """The event with its level: of the slices whose middle lies in it, as far as they were over when it was told.

        So it is the same, however much has been heard since.
        """
        until = event.heard_until if event.offset is None else event.offset
        onset = self._first_after(event.onset)
        end = min(self._first_after(until), self._slice_at(event.heard_until))
        during = self._between(onset, end)
        if len(during) == 0:
            return event
        before = self._between(onset - BACKGROUND_S * SLICES_PER_S, onset)[:, 2]
        level = SoundLevel(
            n_samples=self._edge(end) - self._edge(onset),
            mean_square=float(during[:, 0].mean()),
            fast_max=float(during[:, 1].max()),
            background=float(np.quantile(before, 0.1)) if len(before) >= LEAST_BACKGROUND_S * SLICES_PER_S else None,
        )
        return replace(event, level=level)

    def _edge(self, number: int) -> int:
        return self._origin + edge(number, self._rate_hz)

    def _slice_at(self, sample: int) -> int:
        return slice_at(max(0, sample - self._origin), self._rate_hz)

    def _first_after(self, sample: int) -> int:
        """The first slice whose middle lies here or later."""
        number = self._slice_at(sample)
        return number + (self._edge(number) + self._edge(number + 1) < 2 * sample)

    def _between(self, first: int, end: int) -> Doubles:
        """What is known of the slices from one to before another; float64 (n, 3)."""
        low, high = (max(0, number - self._dropped) * _VALUES for number in (first, end))
        return np.array(self._values[low:high]).reshape(-1, _VALUES)


def statistics(readings: Sequence[LevelReading]) -> LevelStatistics:
    """How loud all that was measured was; of at least one slice."""
    squares, largest, fast = np.array([(one.mean_square, one.fast_max, one.fast) for one in readings]).T
    exceeded = np.quantile(fast, [0.9, 0.5, 0.1]).tolist()
    return LevelStatistics(float(squares.mean()), float(largest.max()), *exceeded)


def dbfs(square: float) -> float:
    """A square in decibels, relative to a sine at full scale; of nothing at all, -200."""
    return 10.0 * math.log10(max(2.0 * square, FAINTEST))  # the square of a sine at full scale is a half


def edge(number: int, sample_rate_hz: int) -> int:
    """Where a slice begins, counted from the first; each second has whole slices at every rate."""
    return number * sample_rate_hz // SLICES_PER_S


def slice_at(sample: int, sample_rate_hz: int) -> int:
    """The slice that has begun, and is not over, so many samples after the first has begun."""
    number = sample * SLICES_PER_S // sample_rate_hz
    return number + (edge(number + 1, sample_rate_hz) <= sample)
