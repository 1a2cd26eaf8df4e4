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
from agent.level import SLICES_PER_S, statistics
from agent.values import IntervalLevel, LevelReading

SLICE_NS = SECOND_NS // SLICES_PER_S
WANDER_NS = SECOND_NS  # dates move by less, unless the clock is set


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
        sample_rate_hz: of the samples that readings are counted in.
        account: what has become of the time since the start.
        tell: takes each, and by what it is dated.
    """

    def __init__(
        self,
        dates: Dates,
        *,
        interval_s: int,
        sample_rate_hz: int,
        account: Callable[[], Tally],
        tell: Callable[[IntervalLevel, Reckoning], None],
    ) -> None:
        self._dates = dates
        self._interval_ns = interval_s * SECOND_NS
        self._rate_hz = sample_rate_hz
        self._account = account
        self._tell = tell
        self._readings: list[LevelReading] = []
        self._first_ns = 0  # where the interval begins that a slice lies in
        self._start_ns = 0  # where what was heard of it begins
        self._reckoning = dates.reckoning
        self._before = account()

    def push(self, readings: Iterable[LevelReading]) -> None:
        """Take slices, in the order of time; call it once the block that they came with is accounted for."""
        for reading in readings:
            middle_ns = to_ns(self._dates.utc_of(reading.first_sample + reading.n_samples // 2))
            if self._readings and not -WANDER_NS <= middle_ns - self._first_ns < self._interval_ns:
                self.finish()
            if not self._readings:
                self._first_ns = middle_ns // self._interval_ns * self._interval_ns
                self._start_ns = to_ns(self._dates.utc_of(reading.first_sample))
                self._reckoning = self._dates.reckoning
            self._readings.append(reading)

    def finish(self) -> None:
        """There is a gap, or the stream has ended: tell what there is of an interval."""
        if not self._readings:
            return
        account = self._account()
        n_samples = sum(reading.n_samples for reading in self._readings)
        heard = (self._start_ns, self._start_ns + n_samples * SECOND_NS // self._rate_hz)
        start_ns, end_ns = map(self._on_the_mark, heard)
        if start_ns == end_ns:  # a single slice, across a mark
            start_ns, end_ns = heard
        level = IntervalLevel(
            start_ns=start_ns,
            end_ns=end_ns,
            statistics=statistics(self._readings),
            silent_ns=account.silent - self._before.silent,
            clipped_ns=account.clipped - self._before.clipped,
        )
        self._before = account
        self._readings = []
        self._tell(level, self._reckoning)

    def _on_the_mark(self, ns: int) -> int:
        """Where an interval begins or ends, if that is nearer than a slice: a slice lies in one interval only."""
        mark_ns = round(ns / self._interval_ns) * self._interval_ns
        return mark_ns if abs(ns - mark_ns) < SLICE_NS else ns
