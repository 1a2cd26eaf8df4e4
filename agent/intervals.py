"""How loud each interval of UTC was: a level each minute, whether anything happened or not.

In: `LevelReading`s as sound comes, and where it was lost. Out: an `IntervalLevel` when an interval is over; a gap ends
one, too, so that each is of sound without a hole. Stateful, for one stream; called on the pipeline thread, and
by `replay`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

from agent.clock import Reckoning, to_ns
from agent.coverage import SECOND_NS, Tally
from agent.level import statistics
from agent.values import IntervalLevel, LevelReading

STEPPED_S = 1.0  # a clock that is right is corrected by less, from slice to slice


class Dates(Protocol):
    """When samples were heard: a `Timeline`, or what is known of a recording."""

    @property
    def reckoning(self) -> Reckoning:
        """By what that is reckoned now."""

    def utc_of(self, sample: int) -> datetime:
        """When a sample was heard."""


class Intervals:
    """Gathers what was measured, interval by interval; they begin where UTC is a multiple of their length.

    Args:
        dates: when samples were heard.
        interval_s: how long each is, a divisor of an hour.
        account: what has become of the time since the start.
        tell: takes each, and by what it is dated.
    """

    def __init__(
        self,
        dates: Dates,
        *,
        interval_s: int,
        account: Callable[[], Tally],
        tell: Callable[[IntervalLevel, Reckoning], None],
    ) -> None:
        self._dates = dates
        self._interval_ns = interval_s * SECOND_NS
        self._account = account
        self._tell = tell
        self._readings: list[LevelReading] = []
        self._mark_ns = 0  # where the interval ends that slices lie in
        self._start_ns = self._end_ns = 0  # what was heard of it
        self._reckoning = self._newest = dates.reckoning  # of its first slice, and of the last
        self._before = account()

    def push(self, readings: Iterable[LevelReading]) -> None:
        """Take slices, in the order of time; call it once the block that they came with is accounted for."""
        for reading in readings:
            begin, middle, end = (
                to_ns(self._dates.utc_of(reading.first_sample + n))
                for n in (0, reading.n_samples // 2, reading.n_samples)
            )
            if self._clock_was_set():
                self.finish()
            if not self._readings:
                self._begin(middle, begin)
            elif middle >= self._mark_ns:  # the next one, and no time is between them
                mark_ns = self._mark_ns
                self._tell_until(mark_ns)
                self._begin(middle, mark_ns)
            self._readings.append(reading)
            self._end_ns = end
            self._newest = self._dates.reckoning

    def finish(self) -> None:
        """There is a gap, or the stream has ended: tell what there is of an interval."""
        if self._readings:
            self._tell_until(max(self._start_ns, self._end_ns))  # dates may have moved back

    def _clock_was_set(self) -> bool:
        now, before = self._dates.reckoning, self._newest
        return now.synced != before.synced or abs(now.utc_zero_s - before.utc_zero_s) > STEPPED_S

    def _begin(self, middle_ns: int, start_ns: int) -> None:
        self._mark_ns = (middle_ns // self._interval_ns + 1) * self._interval_ns
        self._start_ns = start_ns
        self._reckoning = self._dates.reckoning

    def _tell_until(self, end_ns: int) -> None:
        before, self._before = self._before, self._account()
        readings, self._readings = self._readings, []
        level = IntervalLevel(
            start_ns=self._start_ns,
            end_ns=end_ns,
            statistics=statistics(readings),
            silent_ns=self._before.silent - before.silent,
            clipped_ns=self._before.clipped - before.clipped,
        )
        self._tell(level, self._reckoning)
