"""Sample index ↔ UTC, and the only reader of the wall clock.

In: sample counts with the monotonic time at which they had arrived. Out: aware datetimes in UTC. The wall clock is
read when a `Timeline` is made and when it is told to (`resync`), never in between: a step of the wall clock does not
bend the times of events. A `Timeline` belongs to the pipeline thread.
"""

import ctypes
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")  # man systemd-timesyncd.service

_ADJTIMEX_BYTES = 512  # struct timex has 208 on 64-bit Linux; the kernel fills only what it knows
_EPOCH = datetime.fromtimestamp(0, UTC)
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


class Timeline:
    """When each sample of a live stream was heard.

    Samples are tied to the monotonic clock by an anchor, which capture keeps up to date (`capture.ArrivalClock`).

    Args:
        sample_rate_hz: samples per second of the stream.
        wall: seconds since 1970 in UTC.
        monotonic: seconds on a clock that never steps.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._wall = wall
        self._monotonic = monotonic
        self._wall_minus_monotonic_s = wall() - monotonic()
        self.anchor(0, monotonic())

    def anchor(self, sample: int, monotonic_s: float) -> None:
        """Tie the stream anew: `sample` was heard at `monotonic_s`."""
        self._sample = sample
        self._sample_monotonic_s = monotonic_s

    def resync(self) -> None:
        """Read the wall clock again: it has become trustworthy (`time_synced`), and later samples follow it."""
        self._wall_minus_monotonic_s = self._wall() - self._monotonic()

    def utc_of(self, sample: int) -> datetime:
        """When `sample` was heard, in UTC. Earlier samples and ones still to come are allowed."""
        return datetime.fromtimestamp(self.monotonic_of(sample) + self._wall_minus_monotonic_s, UTC)

    def monotonic_of(self, sample: int) -> float:
        """When `sample` was heard, in seconds of the monotonic clock."""
        return self._sample_monotonic_s + (sample - self._sample) / self._sample_rate_hz


def utc_now() -> datetime:
    """The time of day, for what is not dated by its samples: when the agent started, what a replay takes for now."""
    return datetime.now(UTC)


def to_ns(moment: datetime) -> int:
    """An aware datetime as nanoseconds since 1970; it knows microseconds."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def from_ns(ns: int) -> datetime:
    """Nanoseconds since 1970 as a datetime in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def recording_timeline(start: datetime, sample_rate_hz: int) -> Callable[[int], datetime]:
    """The `utc_of` of a recording whose first sample was heard at `start`.

    Args:
        start: aware, any time zone.
        sample_rate_hz: samples per second of the recording.
    """
    start_utc = start.astimezone(UTC)
    return lambda sample: start_utc + timedelta(seconds=sample / sample_rate_hz)


def to_milliseconds(moment: datetime) -> datetime:
    """Round to whole milliseconds, the resolution of everything that is told."""
    return moment + timedelta(microseconds=(moment.microsecond + 500) // 1000 * 1000 - moment.microsecond)


def rfc3339(moment: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC with milliseconds: `2026-01-01T12:00:00.100Z`."""
    return to_milliseconds(moment).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_synced(mark: Path = TIMESYNCD_MARK, kernel_says: Callable[[], bool | None] | None = None) -> bool | None:
    """Whether the wall clock has been set by a time server.

    True if systemd-timesyncd has set it since boot (its mark exists; it stays when the network goes), or if the kernel
    holds it for synchronized now (what chrony and ntpd tell it). False if the kernel does not. None where nobody can
    say: no mark, and the kernel may not be asked. systemd's `ProtectClock=yes` and `SystemCallFilter=@system-service`
    forbid adjtimex; a unit that uses them needs `SystemCallErrorNumber=EPERM`, else asking is deadly.

    Args:
        mark: the file that systemd-timesyncd touches.
        kernel_says: for tests; adjtimex(2) unless given.

    Source: adjtimex(2); systemd-timesyncd.service(8).
    """
    if mark.exists():
        return True
    return (kernel_says or _kernel_synced)()


def _kernel_synced() -> bool | None:
    if os.uname().sysname != "Linux":
        return None
    only_ask = ctypes.create_string_buffer(_ADJTIMEX_BYTES)  # modes = 0: changes nothing, needs no privilege
    state: int = ctypes.CDLL(None).adjtimex(only_ask)
    return None if state < 0 else state != _TIME_ERROR
