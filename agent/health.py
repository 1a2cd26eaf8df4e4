"""How the agent is doing, and telling systemd.

In: counts from the pipeline thread, facts from the other threads. Out: one `Snapshot`, and datagrams to
`$NOTIFY_SOCKET`, sent by the main thread. systemd hears of us only what is proven by analysed sound: READY after the
first, WATCHDOG only while there is more, at about the pace of real time.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

LATE_S = 1.0  # less is not worth telling
PACE_S = 4.0  # lately; less where the watchdog is in more of a hurry
PACE = 0.75  # of real time: not at half the rate, but where a second or two were lost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the agent is doing, at one moment.

    Attributes:
        analysed_samples: samples that the network has judged.
        lost_samples: samples that were lost before it could.
        gaps: how often that happened.
        events: sound events begun.
        late_s: how much sound waits to be analysed.
        wide_hop_s: the window hop, where it is wider than configured so that the analysis keeps up; else None.
        connected: whether there is a broker.
        delivered: messages that it acknowledged.
        queued: messages that wait for it.
        dropped: messages dropped because the spool was full.
        liveness: whether the sensor hears, in words.
        coverage_percent: of this hour so far.
        last_error: why there is no broker or why it refused; None while all is well.
    """

    analysed_samples: int
    lost_samples: int
    gaps: int
    events: int
    late_s: float
    wide_hop_s: float | None
    connected: bool
    delivered: int
    queued: int
    dropped: int
    liveness: str
    coverage_percent: float
    last_error: str | None

    def status_line(self, sample_rate_hz: int) -> str:
        """One line for `systemctl status`."""
        parts = [self.liveness, f"{self.analysed_samples / sample_rate_hz:.0f} s analysed", f"{self.events} events"]
        parts.append(f"coverage {self.coverage_percent:.1f} %")
        if self.gaps:
            parts.append(f"{self.lost_samples / sample_rate_hz:.1f} s lost in {self.gaps} gaps")
        if self.wide_hop_s is not None:
            parts.append(f"too slow: a window only each {self.wide_hop_s:g} s")
        if self.late_s >= LATE_S:
            parts.append(f"{self.late_s:.1f} s late")
        parts.append("broker connected" if self.connected else "no broker")
        if self.queued:
            parts.append(f"{self.queued} messages wait")
        if self.dropped:
            parts.append(f"{self.dropped} messages dropped")
        if self.last_error:
            parts.append(self.last_error)
        return ", ".join(parts)


class Health:
    """The pipeline's counters. The pipeline thread counts, any thread may look.

    Attributes:
        late_s: how much sound waits to be analysed.
        wide_hop_s: the window hop, where it is wider than configured; else None.
    """

    def __init__(self) -> None:
        self._analysed_samples = 0
        self._lost_samples = 0
        self._gaps = 0
        self._events = 0
        self.late_s = 0.0
        self.wide_hop_s: float | None = None

    @property
    def analysed_samples(self) -> int:
        """Samples that the network has judged."""
        return self._analysed_samples

    @property
    def events(self) -> int:
        """Sound events begun."""
        return self._events

    def count_analysed(self, samples: int) -> None:
        """So many more samples have gone through the whole pipeline."""
        self._analysed_samples += samples

    def count_gap(self, lost_samples: int) -> None:
        """There is a gap in the stream."""
        self._gaps += 1
        self._lost_samples += lost_samples

    def note_pace(self, late_s: float, wide_hop_s: float | None) -> None:
        """How much sound waits, and the window hop where it is wider than configured."""
        self.late_s, self.wide_hop_s = late_s, wide_hop_s

    def count_event(self) -> None:
        """An event has begun."""
        self._events += 1

    def snapshot(
        self,
        *,
        connected: bool,
        delivered: int,
        queued: int,
        dropped: int,
        last_error: str | None,
        liveness: str,
        coverage_percent: float,
    ) -> Snapshot:
        """All of it, with what the publisher says."""
        return Snapshot(
            analysed_samples=self._analysed_samples,
            lost_samples=self._lost_samples,
            gaps=self._gaps,
            events=self._events,
            late_s=self.late_s,
            wide_hop_s=self.wide_hop_s,
            connected=connected,
            delivered=delivered,
            queued=queued,
            dropped=dropped,
            liveness=liveness,
            coverage_percent=coverage_percent,
            last_error=last_error,
        )


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state to systemd; without `$NOTIFY_SOCKET` nothing happens.

    A socket that does not take it is said in the log: the agent hears as well without systemd.

    Args:
        state: such as `READY=1`; several are separated by newlines.
        environment: `NOTIFY_SOCKET` is looked at, a path or an abstract name with `@`.

    Source: sd_notify(3).
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1.0)  # systemd busy for a moment must not stop the main thread for long
            channel.connect(address)  # else waiting for room is a busy loop: what is not connected looks writable
            channel.send(state.encode(errors="replace"))
    except OSError as error:
        log.warning("systemd.not_told state=%s reason=%s", state.partition("\n")[0], error)


class Heartbeat:
    """Tells systemd that sound is being analysed. Used by the main thread.

    Args:
        environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are looked at.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._interval_s = _watchdog_interval_s(environment)
        self._ready = False
        self._pace_s = min(PACE_S, self._interval_s or PACE_S)
        self._pinged_at = float("-inf")
        self._past: deque[tuple[float, float]] = deque()
        self._status = ""

    def push(self, analysed_s: float, now: float, status: str = "") -> None:
        """Call it once a second or so.

        READY is told with the first analysed sound, and the watchdog's first WATCHDOG; the next ones every half of the
        watchdog's time, but only if of late sound was analysed at about the pace of real time; the status whenever it
        changed.

        Args:
            analysed_s: how much sound was analysed so far.
            now: monotonic seconds.
            status: one line for `systemctl status`.
        """
        states = []
        self._past.append((now, analysed_s))
        while len(self._past) > 1 and self._past[1][0] <= now - self._pace_s:
            self._past.popleft()
        moves = self._moves()
        if not self._ready and analysed_s > 0:
            self._ready = moves = True
            states.append("READY=1")
        if self._interval_s is not None and moves and now - self._pinged_at >= self._interval_s:
            self._pinged_at = now
            states.append("WATCHDOG=1")
        if status != self._status:
            self._status = status
            states.append(f"STATUS={status}")
        if states:
            notify("\n".join(states), self._environment)

    def _moves(self) -> bool:
        (then, before_s), (now, analysed_s) = self._past[0], self._past[-1]
        return now - then >= self._pace_s and analysed_s - before_s >= PACE * (now - then)

    def reloading(self, now_us: int) -> None:
        """Tell that a new configuration is being read; `reloaded` must follow.

        Before READY nothing is told: the READY that ends a reload would be taken for it.

        Args:
            now_us: monotonic microseconds, by which systemd tells reloads apart.
        """
        if self._ready:
            notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}", self._environment)

    def reloaded(self) -> None:
        """Tell that the new configuration is in effect, or refused."""
        if self._ready:
            notify("READY=1", self._environment)

    def stop(self) -> None:
        """Tell that the agent is stopping, on purpose."""
        notify("STOPPING=1", self._environment)


def _watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    """Half the time after which systemd takes us for dead; None where it does not look. See sd_watchdog_enabled(3)."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit = environment.get("WATCHDOG_USEC", "")
    return int(limit) / 2e6 if limit.isdecimal() and int(limit) > 0 else None
