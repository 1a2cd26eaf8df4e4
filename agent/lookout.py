"""What the main thread looks at once a second: whether the sensor hears, and whether all time is accounted for.

In: the counters of capture, pipeline and accounts. Out: changes of liveness, each said once in the log, in `info` and
in `health`; `health` once a minute besides, and `info` anew where the clock was set; and the accounts on the disk.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from agent.accounts import Accounts, Balance
from agent.capture import CaptureSnapshot
from agent.coverage import SECOND_NS
from agent.health import Health
from agent.liveness import DEAF, Liveness, LivenessWatch, Sight, State
from agent.values import GapCause
from agent.wire import HEALTH_INTERVAL_S, LivenessPart

log = logging.getLogger(__name__)

MOVED = timedelta(seconds=1.0)  # less is told as it was

_AWAY = {"waiting", "stopped", "hung", "failed"}  # of `CaptureSnapshot.state`
_OPEN = {"open", "running"}
_LEVELS: dict[State, int] = {"hearing": logging.INFO, "recovering": logging.INFO}


class Lookout:
    """Looks, and tells.

    Args:
        accounts: of all time.
        health: the pipeline's counters.
        say_liveness: takes each change of liveness.
        say_health: takes the fields of a `HealthMessage` that are known here.
        now_s: monotonic time of the start.
        now: the time of day.
    """

    def __init__(
        self,
        accounts: Accounts,
        health: Health,
        *,
        say_liveness: Callable[[LivenessPart], None],
        say_health: Callable[[Mapping[str, object]], None],
        now_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._health = health
        self._say_liveness = say_liveness
        self._say_health = say_health
        self._now = now
        self._watch = LivenessWatch(now_s)
        self._said_s = now_s
        self._is_open = False
        self._opened_s: float | None = None  # for the first time
        self._balance = accounts.look(now_s, None, away=False)
        self._tell(self.liveness, now_s)

    @property
    def liveness(self) -> Liveness:
        """Whether the sensor hears."""
        return self._watch.now

    @property
    def balance(self) -> Balance:
        """The account, as of the last look."""
        return self._balance

    def hopeless(self, now_s: float, give_up_s: float) -> Liveness | None:
        """Why to leave for a fresh start: stalled for so long.

        Not where the board is too slow: it would be no faster. Opening the microphone has a deadline of its own, and
        what the first opening takes is not held against it.
        """
        now = self.liveness
        if now.state != "stalled" or now.cause == "too_slow" or not self._is_open or self._opened_s is None:
            return None
        return now if now_s - max(now.since_s, self._opened_s) >= give_up_s else None

    def in_words(self) -> str:
        """Whether the sensor hears, for `systemctl status`."""
        return self.liveness.state + (f" ({self.liveness.cause})" if self.liveness.cause else "")

    def look(self, now_s: float, capture: CaptureSnapshot, *, sample_rate_hz: int, waiting: int) -> None:
        """Look once.

        Args:
            now_s: monotonic.
            capture: how the microphone is doing.
            sample_rate_hz: 0 until it is known.
            waiting: samples in the ring.
        """
        rate_hz = sample_rate_hz or 1  # of no samples
        away = capture.state in _AWAY
        self._is_open = capture.state in _OPEN
        if self._is_open and self._opened_s is None:
            self._opened_s = now_s
        sight = Sight(
            now_s=now_s,
            device=not away,
            captured_s=capture.captured_samples / rate_hz,
            analysed_s=self._health.analysed_samples / rate_hz,
            zero_s=self._balance.zero_ns / SECOND_NS,
            constant_s=self._balance.constant_ns / SECOND_NS,
            clipped_s=self._balance.total.clipped / SECOND_NS,
        )
        changed = self._watch.push(sight)
        self._balance = self._accounts.look(now_s, self._why_deaf(), away=away and waiting == 0)
        if changed is not None:
            self._tell(changed, now_s)
        if changed is not None or now_s - self._said_s >= HEALTH_INTERVAL_S:
            self._said_s = now_s
            if abs(self._since(now_s) - self._said_since) >= MOVED:  # the clock was set
                self._say_since(now_s)
            self._say_health(self._facts(capture, rate_hz))
        self._accounts.keep(now_s, at_once=changed is not None)

    def _why_deaf(self) -> GapCause | None:
        state, cause = self.liveness.state, self.liveness.cause
        if state not in DEAF or cause == "start":
            return None
        return "device" if cause == "device" else "stalled"

    def _tell(self, liveness: Liveness, now_s: float) -> None:
        log.log(
            _LEVELS.get(liveness.state, logging.WARNING),
            "liveness.%s cause=%s times=%d",
            liveness.state,
            liveness.cause or "-",
            self._watch.changes[liveness.state],
        )
        self._say_since(now_s)

    def _since(self, now_s: float) -> datetime:
        return self._now() - timedelta(seconds=now_s - self.liveness.since_s)

    def _say_since(self, now_s: float) -> None:
        self._said_since = self._since(now_s)
        now = self.liveness
        self._say_liveness(LivenessPart(state=now.state, cause=now.cause, since=self._said_since))

    def _facts(self, capture: CaptureSnapshot, rate_hz: int) -> dict[str, Any]:
        balance = self._balance
        total = balance.total
        in_ns = {
            "elapsed_s": balance.elapsed_ns,
            "analysed_s": total.analysed,
            "silent_s": total.silent,
            "clipped_s": total.clipped,
            "lost_s": total.lost,
            "drift_s": balance.drift_ns,
            "pending_s": balance.pending_ns,
        }
        percents = {
            "coverage_hour_percent": balance.hour_percent,
            "coverage_last_hour_percent": balance.last_hour_percent,
        }
        return {
            "changes": dict(self._watch.changes),
            "captured_s": round(capture.captured_samples / rate_hz, 3),
            **{name: round(ns / SECOND_NS, 3) for name, ns in in_ns.items()},
            **{name: None if percent is None else round(percent, 2) for name, percent in percents.items()},
            "gaps": balance.gaps,
            "events": self._health.events,
            "late_s": round(self._health.late_s, 3),
            "wide_hop_s": self._health.wide_hop_s,
            "reopened": capture.reopened,
            "overflows": capture.overflows,
            "invalid_samples": capture.invalid_samples,
        }
