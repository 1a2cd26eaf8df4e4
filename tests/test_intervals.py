"""Promises of `agent.intervals`: each interval of UTC has its level, of sound without a hole."""

from datetime import UTC, datetime

import pytest

from agent.clock import Reckoning, Timeline, WallClock, from_ns
from agent.coverage import SECOND_NS, Tally
from agent.intervals import Intervals
from agent.level import SLICES_PER_S, edge, statistics
from agent.values import IntervalLevel, LevelReading

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MONOTONIC_S = 500.0


class Street:
    """A stream of slices, each a little louder than the one before, and a wall clock that a test can set.

    Attributes:
        told: the levels, with what dated them.
        account: what is booked.
    """

    def __init__(
        self, *, starts_s: float = 0.0, rate_hz: int = 48_000, interval_s: int = 60, synced: bool | None = True
    ) -> None:
        self.wrong_s = 0.0
        self.synced = synced
        self.rate_hz = rate_hz
        self.told: list[tuple[IntervalLevel, Reckoning]] = []
        self.account = Tally()
        self.heard: list[LevelReading] = []
        self._number = 0  # of the next slice
        self._lost = 0
        self.timeline = Timeline(
            rate_hz,
            WallClock(
                wall=lambda: NOON.timestamp() + starts_s + self.wrong_s,
                monotonic=lambda: MONOTONIC_S,
                synced=lambda: self.synced,
                boot="boot",
            ),
        )
        self.intervals = Intervals(
            self.timeline,
            interval_s=interval_s,
            account=lambda: self.account,
            tell=lambda level, reckoning: self.told.append((level, reckoning)),
        )

    def hear(self, seconds: float) -> None:
        for _ in range(round(seconds * SLICES_PER_S)):
            begin, end = (edge(number, self.rate_hz) for number in (self._number, self._number + 1))
            square = 1e-6 * (1.0 + 1e-3 * self._number)
            reading = LevelReading(self._lost + begin, end - begin, square, 2.0 * square, 0.9 * square)
            self._number += 1
            self.heard.append(reading)
            self.intervals.push([reading])

    def lose(self, seconds: float) -> None:
        self._lost += round(seconds * self.rate_hz)
        self.intervals.finish()

    def times_s(self) -> list[tuple[float, float]]:
        """When each began and ended, in seconds after noon."""
        spans = ((from_ns(level.start_ns) - NOON, from_ns(level.end_ns) - NOON) for level, _ in self.told)
        return [(start.total_seconds(), end.total_seconds()) for start, end in spans]


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000])
def test_each_interval_of_utc_has_its_level(rate_hz: int) -> None:
    """They begin on the minute, whenever the agent did; what it heard of the first and of the last is told as such."""
    street = Street(starts_s=-20.4, rate_hz=rate_hz)

    street.hear(100.0)
    street.intervals.finish()

    first, second, last = street.times_s()
    assert (first[0], second[0], last[0]) == pytest.approx((-20.4, 0.0, 60.0), abs=1e-3)
    assert (first[1], second[1], last[1]) == pytest.approx((0.0, 60.0, 79.6), abs=1e-3)
    assert second == (0.0, 60.0)  # on the mark, though no slice ends there
    parts = [street.heard[:163], street.heard[163:643], street.heard[643:]]
    assert [level.statistics for level, _ in street.told] == [statistics(part) for part in parts]


def test_an_interval_may_be_a_second_or_an_hour() -> None:
    """Any divisor of an hour."""
    seconds, hours = Street(starts_s=0.01, interval_s=1), Street(starts_s=-60.0, interval_s=3600)
    seconds.hear(3.0)
    hours.hear(100.0)

    assert seconds.times_s() == [(0.01, 1.0), (1.0, 2.0)]
    assert hours.times_s() == [(-60.0, 0.0)]


def test_a_gap_ends_an_interval() -> None:
    """Its sound is told at once; what comes after it in the same minute is another one, dated by its own samples."""
    street = Street(starts_s=10.0)

    street.hear(5.0)
    street.lose(7.3)
    told_at_once = street.times_s()
    street.hear(4.0)
    street.lose(0.01)
    street.lose(0.01)

    assert told_at_once == [(10.0, 15.0)]
    assert street.times_s() == [(10.0, 15.0), (22.3, 26.3)]


@pytest.mark.parametrize("wrong_s", [86_400.0 + 3.5, 20.0, 0.4, -3600.0])
def test_a_clock_that_is_set_ends_an_interval(wrong_s: float) -> None:
    """Each is dated by one reckoning; whoever puts the first right later finds no hole, and nothing twice."""
    street = Street(starts_s=10.0, synced=False)
    street.hear(10.0)
    street.wrong_s, street.synced = wrong_s, True
    street.timeline.look()
    street.hear(10.0)
    street.intervals.finish()

    (before, dated_by), (after, by_then) = street.told
    assert (dated_by.synced, by_then.synced) == (False, True)
    moved_ns = round((by_then.utc_zero_s - dated_by.utc_zero_s) * SECOND_NS)
    assert moved_ns == pytest.approx(wrong_s * SECOND_NS, abs=1e6)
    assert before.end_ns + moved_ns == pytest.approx(after.start_ns, abs=1e6)
    assert street.times_s()[0] == (10.0, 20.0)


def test_a_step_that_is_followed_ends_an_interval() -> None:
    """Also where nobody can say whether the clock is right."""
    street = Street(starts_s=10.0, synced=None)
    street.hear(10.0)
    street.wrong_s = 15.0
    street.timeline.look()
    street.hear(10.0)
    street.intervals.finish()

    assert street.times_s() == [(10.0, 20.0), (35.0, 45.0)]


@pytest.mark.parametrize("moved_s", [-0.2, 0.2])
def test_a_timeline_that_wanders_tears_nothing(moved_s: float) -> None:
    """Capture moves the anchor by some tenths of a second, also back, also at the mark: intervals still touch there."""
    street = Street(starts_s=-1.0)
    street.hear(0.75)
    street.timeline.anchor(0, MONOTONIC_S + moved_s)
    street.hear(0.625)
    street.timeline.anchor(0, MONOTONIC_S - moved_s)
    street.hear(2.0)
    street.intervals.finish()

    (start_s, mark_s), (again_s, _) = street.times_s()
    assert (start_s, mark_s, again_s) == (-1.0, 0.0, 0.0)


def test_what_moves_back_behind_its_start_lasted_no_time() -> None:
    """A message that ends before it began would be none."""
    street = Street(starts_s=-1.0)
    street.hear(1.0)
    street.timeline.anchor(0, MONOTONIC_S + 0.01)
    street.hear(0.125)
    street.timeline.anchor(0, MONOTONIC_S - 0.5)
    street.hear(0.125)
    street.intervals.finish()

    assert street.times_s() == [(-1.0, 0.0), (0.0, 0.0)]


def test_what_was_silent_or_clipped_is_said_with_the_interval_that_it_was_in() -> None:
    """As far as it was accounted for when the interval was over."""
    street = Street(interval_s=10)
    street.account = Tally(heard=8 * SECOND_NS, silent=2 * SECOND_NS)
    street.hear(10.125)
    street.account = Tally(heard=17 * SECOND_NS, silent=2 * SECOND_NS, clipped=SECOND_NS)
    street.hear(10.0)

    seconds = [(level.silent_ns / SECOND_NS, level.clipped_ns / SECOND_NS) for level, _ in street.told]
    assert seconds == [(2.0, 0.0), (0.0, 1.0)]


def test_nothing_is_told_of_nothing() -> None:
    """A start without sound, and gaps one after the other, have no level."""
    street = Street()

    street.lose(1.0)
    street.intervals.finish()

    assert street.told == []


def test_what_is_told_is_as_long_as_what_was_heard() -> None:
    """To the slice that may lie across a mark; whole ones have their length to the last digit."""
    street = Street(starts_s=-3.07, interval_s=5)
    street.hear(30.0)
    street.intervals.finish()

    told_s = [end_s - start_s for start_s, end_s in street.times_s()]
    assert told_s[1:-1] == [5.0] * 5
    assert sum(told_s) == pytest.approx(30.0, abs=0.0626)
