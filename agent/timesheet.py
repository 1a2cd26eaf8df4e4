"""Coverage as rows that a person or a program reads: of the hours that a sensor has kept, and of recordings.

In: tallies by the hour; blocks of a recording. Out: one row for each hour or recording, in seconds. `off_s` is what
nobody accounts for: the agent did not run.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from agent.clock import from_ns, rfc3339, to_ns
from agent.condition import Inspector, Run
from agent.coverage import HOUR_NS, KIND_OF, SECOND_NS, Ledger, Tally, duration_ns
from agent.values import AudioBlock

Row = dict[str, Any]

COLUMNS = ("coverage_percent", "heard_s", "silent_s", "clipped_s", "lost_s", "off_s")
_DIGITS = 3


def hour_rows(hours: Mapping[int, Tally], *, now_ns: int, newest: int) -> list[Row]:
    """The newest hours, up to now; those in which nothing was kept are there as well.

    Args:
        hours: by number; 0 is the first of 1970.
        now_ns: nanoseconds since 1970.
        newest: how many.
    """
    this_hour = now_ns // HOUR_NS
    if not hours:
        return []
    first = max(min(hours), this_hour - newest + 1)
    return [
        {"hour": rfc3339(from_ns(number * HOUR_NS))}
        | _seconds(hours.get(number, Tally()), min(HOUR_NS, now_ns - number * HOUR_NS))
        for number in range(first, this_hour + 1)
    ]


def total_row(rows: Iterable[Row]) -> Row:
    """All of them together."""
    rows = list(rows)
    summed = {name: round(sum(row[name] for row in rows), _DIGITS) for name in COLUMNS[1:]}
    whole_s = sum(summed.values())
    return {"coverage_percent": round(100.0 * summed["heard_s"] / whole_s, 2) if whole_s else 0.0} | summed


def as_text(rows: Iterable[Row]) -> Iterator[str]:
    """Hours as a table, line by line, with their sum."""
    rows = list(rows)
    yield "hour (UTC)        coverage  heard s silent s clipped s   lost s    off s"
    for row in [*rows, {"hour": "all"} | total_row(rows)]:
        hour = row["hour"][:16].replace("T", " ")
        yield (
            f"{hour:16} {row['coverage_percent']:7.2f} % {row['heard_s']:8.0f} {row['silent_s']:8.0f}"
            f" {row['clipped_s']:9.0f} {row['lost_s']:8.0f} {row['off_s']:8.0f}"
        )


class RecordingTimes:
    """The account of one recording, filled as it is read.

    Args:
        sample_rate_hz: of its samples.
        start: when it began; None where nobody knows.
    """

    def __init__(self, sample_rate_hz: int, start: datetime | None) -> None:
        self._rate_hz = sample_rate_hz
        self._start = start
        self._inspector = Inspector(sample_rate_hz)
        self._ledger = Ledger(0 if start is None else to_ns(start))
        self._booked = 0

    def watch(self, blocks: Iterable[AudioBlock]) -> Iterator[AudioBlock]:
        """The same blocks; each is booked when the next one is asked for."""
        for block in blocks:
            yield block
            self._book(self._inspector.push(block.samples))
        self._book(self._inspector.flush())

    @property
    def total(self) -> Tally:
        """What has become of it, as far as it is booked."""
        return self._ledger.total

    def row(self, file: str, *, missing: int) -> Row:
        """What came of it.

        Args:
            file: the recording, as the user named it.
            missing: samples that it promises, and that could not be read; they are lost.
        """
        self._ledger.book("lost", duration_ns(self._booked, missing, self._rate_hz))
        total = self._ledger.total
        row: Row = {"file": file}
        if self._start is not None:
            row["start"] = rfc3339(self._start)
        row["duration_s"] = round(total.accounted / SECOND_NS, _DIGITS)
        row |= {name: value for name, value in _seconds(total, total.accounted).items() if name != "off_s"}
        if self._start is not None:
            row["hours"] = [
                {"hour": rfc3339(from_ns(number * HOUR_NS))} | _seconds(tally, HOUR_NS)
                for number, tally in self._ledger.hours()
            ]
        return row

    def _book(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._ledger.book(KIND_OF[run.condition], duration_ns(self._booked, run.n_samples, self._rate_hz))
            self._booked += run.n_samples


def _seconds(tally: Tally, of_ns: int) -> Row:
    """One tally in seconds, and what is missing to a whole."""
    ns = (tally.heard, tally.silent, tally.clipped, tally.lost, max(0, of_ns - tally.accounted))
    seconds = {name: round(value / SECOND_NS, _DIGITS) for name, value in zip(COLUMNS[1:], ns, strict=True)}
    return {"coverage_percent": round(tally.percent(of_ns), 2)} | seconds
