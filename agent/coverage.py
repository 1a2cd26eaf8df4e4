"""The ledger of time: each moment since the start was heard, silent, clipped or lost, and the sum is all of it.

In: spans of time, one after the other, and now and then what the clock says. Out: tallies, since the start and for each
hour of UTC. Pure: times are integers in nanoseconds, so nothing is lost by rounding, and no clock is asked.

The ledger's position runs from 0 at the start. A span moves it on by its length; so what is booked never overlaps and
leaves nothing out. A sound card's second is not quite that of the clock: `settle` puts the position right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["heard", "silent", "clipped", "lost"]

# Of `condition.Condition`.
KIND_OF: dict[str, Kind] = {"heard": "heard", "zero": "silent", "constant": "silent", "clipped": "clipped"}

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS

DRIFT_SHARE = 0.0005  # sound cards run up to some hundreds of ppm fast or slow
UNSURE_NS = 3 * SECOND_NS // 10  # less is not told from jitter: `capture.ArrivalClock`


@dataclass(frozen=True, slots=True)
class Tally:
    """How much time was what, in nanoseconds.

    Attributes:
        heard: analysed, and there was something to hear.
        silent: analysed, but the samples did not move.
        clipped: analysed, but they were at full scale.
        lost: not analysed: the microphone was away, or sound was dropped on the way.
    """

    heard: int = 0
    silent: int = 0
    clipped: int = 0
    lost: int = 0

    def plus(self, kind: Kind, ns: int) -> "Tally":
        """The same with a span more."""
        return replace(self, **{kind: getattr(self, kind) + ns})

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.heard + other.heard, self.silent + other.silent, self.clipped + other.clipped, self.lost + other.lost
        )

    @property
    def analysed(self) -> int:
        """What the network has judged."""
        return self.heard + self.silent + self.clipped

    @property
    def accounted(self) -> int:
        """All that is booked."""
        return self.analysed + self.lost

    def percent(self, of_ns: int) -> float:
        """The coverage: what was heard of a time, in percent. What nobody accounted for was not heard."""
        return min(100.0, 100.0 * self.heard / of_ns) if of_ns > 0 else 0.0


def duration_ns(first_sample: int, n_samples: int, sample_rate_hz: int) -> int:
    """How long a run of samples lasts. Runs that touch add up to the last nanosecond, at any rate."""
    end = first_sample + n_samples
    return end * SECOND_NS // sample_rate_hz - first_sample * SECOND_NS // sample_rate_hz


class Ledger:
    """The account of one run of the agent, or of one recording.

    Args:
        utc_ns: when it starts, in nanoseconds since 1970; 0 for a recording of which nobody knows.
        before: what is known of this hour and the last from before the start, by the hour's number.
    """

    def __init__(self, utc_ns: int, before: Mapping[int, Tally] | None = None) -> None:
        self.total = Tally()
        self.position_ns = 0
        self.drift_ns = 0
        self._utc_at_start_ns = utc_ns
        self._settled_ns = 0
        self._hours: dict[int, Tally] = dict(before or {})
        self._news: dict[int, Tally] = {}

    def book(self, kind: Kind, ns: int) -> None:
        """The next `ns` were of this kind. Where an hour ends in between, both hours get their share."""
        while ns > 0:
            utc_ns = self._utc_at_start_ns + self.position_ns
            number = utc_ns // HOUR_NS
            span = min(ns, (number + 1) * HOUR_NS - utc_ns)
            self._hours[number] = self.hour(number).plus(kind, span)
            self._news[number] = self._news.get(number, Tally()).plus(kind, span)
            self.total = self.total.plus(kind, span)
            self.position_ns += span
            ns -= span

    def settle(self, clock_ns: int) -> int:
        """Hold the position against the clock; call it about once a minute, when all until now is booked.

        Sound that a sound server drops a little at a time, too little to be told from jitter, is found here: what is
        missing beyond what a sound card's clock may be off. Less than that is `drift_ns`, taken in once an hour.

        Args:
            clock_ns: the monotonic time of the position, since the start.

        Returns:
            how much was missing, and is booked as lost.
        """
        missing = clock_ns - self.position_ns
        since = self.unsettled_ns
        if missing > UNSURE_NS + DRIFT_SHARE * since:
            self.book("lost", missing)
        elif since >= HOUR_NS:
            missing, drift = 0, missing
            self.drift_ns += drift
            self.position_ns += drift
        else:
            return 0
        self._settled_ns = self.position_ns
        return missing

    def date(self, utc_ns: int) -> None:
        """The position is at this time of day. What was booked before stays in its hours."""
        self._utc_at_start_ns = utc_ns - self.position_ns

    @property
    def unsettled_ns(self) -> int:
        """How long ago the position was put right."""
        return self.position_ns - self._settled_ns

    @property
    def utc_ns(self) -> int:
        """The time of day of the position."""
        return self._utc_at_start_ns + self.position_ns

    def hour(self, number: int) -> Tally:
        """What is known of an hour; 0 is the first of 1970."""
        return self._hours.get(number, Tally())

    def hours(self) -> Iterator[tuple[int, Tally]]:
        """All hours that are known, from the first to the last."""
        return iter(sorted(self._hours.items()))

    def take_news(self) -> dict[int, Tally]:
        """What was booked since the last time, by hour; hours before the last are forgotten here."""
        news, self._news = self._news, {}
        last = self.utc_ns // HOUR_NS - 1
        self._hours = {number: tally for number, tally in self._hours.items() if number >= last}
        return news

    def percent_of_hour(self, number: int) -> float | None:
        """The coverage of an hour, of the current one so far; None where nothing is known of it."""
        if number not in self._hours:
            return None
        return self._hours[number].percent(min(HOUR_NS, self.utc_ns - number * HOUR_NS))
