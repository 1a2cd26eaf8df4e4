"""Sample index ↔ UTC, and the only reader of the wall clock.

In: sample counts with the monotonic time at which they had arrived. Out: aware datetimes in UTC. Inside, time is
monotonic: durations are true whatever happens to the wall clock. UTC is *reckoned*: monotonic time plus one number,
when the machine was started. How a step of the wall clock moves that number is the business of `WallClock`, which all
threads share; a `Timeline` belongs to the pipeline thread.
"""

import ctypes
import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")  # man systemd-timesyncd.service
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # man random(4)

MAX_FOLLOWED_S = 60.0  # a clock known to be right is corrected by seconds; by more, it is not right any more
SLEW = 0.1  # seconds of correction a second: time goes a tenth faster or slower, and never back

_ADJTIMEX_BYTES = 512  # struct timex has 208 on 64-bit Linux; the kernel fills only what it knows
EPOCH = datetime.fromtimestamp(0, UTC)
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_STEPPED_S = 1.0  # more than clocks wander while nobody looks
_GLANCES = 5  # at the wall clock
_QUICK_S = 1e-4  # a glance that took longer may be off by so much


@dataclass(frozen=True, slots=True)
class Reckoning:
    """How UTC follows from monotonic time: their sum.

    Attributes:
        boot: of the machine; monotonic time begins there.
        utc_zero_s: when that was, in seconds since 1970.
        synced: whether that is known to be right; None where nobody can say.
    """

    boot: str
    utc_zero_s: float
    synced: bool | None


class WallClock:
    """What the wall clock is worth. Safe to use from all threads.

    - While it is not set, times are reckoned from what it said first. They are wrong, but keep their distance.
    - When a time server has set it (`synced` says True), what it says then is taken over, once. What was reckoned
      before can be put right by the difference of two `utc_zero_s`.
    - From then on corrections of up to `MAX_FOLLOWED_S` (a leap second, a drift that was caught up) are followed
      slowly, so that no time comes twice. A larger step is not believed; it is said in the log.
    - Where nobody can say whether it is set, a step forward is followed: a machine without a clock of its own is behind
      until a time server is heard. A step back is not.

    Args:
        wall: seconds since 1970 in UTC.
        monotonic: seconds on a clock that never steps.
        synced: whether the wall clock has been set by a time server; None where nobody can say.
        boot: names this boot of the machine.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synced: Callable[[], bool | None] | None = None,
        boot: str | None = None,
    ) -> None:
        self._wall = wall
        self.monotonic = monotonic
        self._synced = synced or time_synced
        self.boot = boot or boot_id()
        self._lock = threading.Lock()
        self._is_right = False
        self._looked_s = monotonic()
        self._utc_zero_s = self._look()
        self._said_step_s = 0.0

    def reckon(self) -> Reckoning:
        """Look at the wall clock, and at whether it is set."""
        with self._lock:
            synced = self._synced()
            utc_zero_s, now_s = self._look(), self.monotonic()
            step_s = utc_zero_s - self._utc_zero_s
            if not self._is_right and synced:
                self._is_right = True
                self._utc_zero_s = utc_zero_s
                log.info("clock.synced step_s=%+.3f", step_s)
            elif synced and abs(step_s) <= MAX_FOLLOWED_S:
                limit_s = SLEW * (now_s - self._looked_s)
                self._utc_zero_s += min(limit_s, max(-limit_s, step_s))
            elif synced is None and not self._is_right and step_s > _STEPPED_S:
                self._utc_zero_s = utc_zero_s
                log.warning("clock.stepped step_s=%+.3f followed=yes", step_s)
            elif abs(step_s - self._said_step_s) > _STEPPED_S:
                self._said_step_s = step_s
                log.warning("clock.stepped step_s=%+.3f followed=no", step_s)
            self._looked_s = now_s
            return Reckoning(self.boot, self._utc_zero_s, True if self._is_right else synced)

    def now(self) -> datetime:
        """The time of day, as reckoned."""
        return datetime.fromtimestamp(self.reckon().utc_zero_s + self.monotonic(), UTC)

    def _look(self) -> float:
        """When this boot began, by the wall clock; of a few glances the quickest.

        Both clocks must be read at once: a thread that is held up between the two, on a busy board, is late by that.
        """
        best_s, quickest_s = 0.0, float("inf")
        for _ in range(_GLANCES):
            before_s = self.monotonic()
            wall_s = self._wall()
            after_s = self.monotonic()
            if after_s - before_s < quickest_s:
                best_s, quickest_s = wall_s - (before_s + after_s) / 2, after_s - before_s
            if quickest_s < _QUICK_S:
                break
        return best_s


class Timeline:
    """When each sample of a live stream was heard.

    Samples are tied to the monotonic clock by an anchor, which capture keeps up to date (`capture.ArrivalClock`).

    Args:
        sample_rate_hz: samples per second of the stream.
        clock: by what UTC is reckoned.
    """

    def __init__(self, sample_rate_hz: int, clock: WallClock) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._clock = clock
        self.look()
        self.anchor(0, clock.monotonic())

    def look(self) -> Reckoning:
        """Look at the wall clock: how later calls of `utc_of` reckon. Once for each event, or more often."""
        self.reckoning = self._clock.reckon()
        return self.reckoning

    def anchor(self, sample: int, monotonic_s: float) -> None:
        """Tie the stream anew: `sample` was heard at `monotonic_s`."""
        self._sample = sample
        self._sample_monotonic_s = monotonic_s

    def utc_of(self, sample: int) -> datetime:
        """When `sample` was heard, in UTC. Earlier samples and ones still to come are allowed."""
        return datetime.fromtimestamp(self.monotonic_of(sample) + self.reckoning.utc_zero_s, UTC)

    def monotonic_of(self, sample: int) -> float:
        """When `sample` was heard, in seconds of the monotonic clock."""
        return self._sample_monotonic_s + (sample - self._sample) / self._sample_rate_hz


def utc_now() -> datetime:
    """The time of day, for what is not dated by its samples: when the agent started, what a replay takes for now."""
    return datetime.now(UTC)


def to_ns(moment: datetime) -> int:
    """An aware datetime as nanoseconds since 1970; it knows microseconds."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def from_ns(ns: int) -> datetime:
    """Nanoseconds since 1970 as a datetime in UTC, to the microsecond."""
    return EPOCH + timedelta(microseconds=ns // 1000)


def boot_id(file: Path = BOOT_ID) -> str:
    """Names this boot of the machine; where nobody can say, this process."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


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
    adjtimex = _adjtimex()
    if adjtimex is None:
        return None
    only_ask = ctypes.create_string_buffer(_ADJTIMEX_BYTES)  # modes = 0: changes nothing, needs no privilege
    state = adjtimex(only_ask)
    return None if state < 0 else state != _TIME_ERROR


@functools.cache
def _adjtimex() -> Callable[[object], int] | None:
    """Linux's way to ask; looked up once, for the clock is looked at ten times a second."""
    return ctypes.CDLL(None).adjtimex if os.uname().sysname == "Linux" else None
