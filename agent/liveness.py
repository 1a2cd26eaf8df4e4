"""Whether the sensor hears: a small state machine, so that deaf time is noticed within ten seconds and said.

In: once a second, a `Sight` of what capture and analysis have done so far. Out: the state, and each change of it. Pure:
the time comes with the sight. Used by the main thread.

    recovering ──► hearing ◄──► silent, clipped      the samples say nothing, or too much
        ▲             │
        │             ▼
        └───── stalled, lost                         too little comes; the device is away
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

State = Literal["hearing", "silent", "clipped", "stalled", "lost", "recovering"]
Cause = Literal[
    "start", "device", "no_samples", "too_few_samples", "analysis", "too_slow", "zero", "constant", "clipped"
]

PACE_S = 7.0  # sound servers stutter for 3 s, and then deliver everything
SLOW = 0.55  # of real time: below the pace of a stutter, above that of a microphone at half its rate
CONDITION_S = 5.0
SILENT_SHARE = 0.95
CLIPPED_SHARE = 0.5
NO_MORE_CLIPPED_SHARE = 0.25  # two thresholds, so that a sound in between does not flicker
RECOVER_S = 2.0
RECOVERED = 0.8  # of real time
NOTHING_S = 2.5  # without any sample: not slow, but dead

DEAF: tuple[State, ...] = ("stalled", "lost", "recovering")


@dataclass(frozen=True, slots=True)
class Sight:
    """What has happened so far, at one moment; seconds since the start.

    Attributes:
        now_s: monotonic.
        device: whether there is one, open or just being opened.
        captured_s: sound that came.
        analysed_s: sound that went through the whole pipeline.
        zero_s, constant_s, clipped_s: of the analysed sound.
    """

    now_s: float
    device: bool
    captured_s: float
    analysed_s: float
    zero_s: float = 0.0
    constant_s: float = 0.0
    clipped_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Liveness:
    """The state.

    Attributes:
        state: `hearing`; `silent`, the samples do not move; `clipped`, they are at full scale; `stalled`, too little
            is captured or analysed; `lost`, the device is away; `recovering`, sound has just begun to come.
        cause: why, where it is not `hearing`.
        since_s: monotonic time of the change.
    """

    state: State
    cause: Cause | None
    since_s: float


class LivenessWatch:
    """The state machine.

    Args:
        now_s: monotonic time of the start: the first state is `recovering`, because of the start.

    Attributes:
        now: the state.
        changes: how often each state was entered, the first one included.
    """

    def __init__(self, now_s: float) -> None:
        self.now = Liveness("recovering", "start", now_s)
        self.changes: Counter[State] = Counter({"recovering": 1})
        self._past: deque[Sight] = deque()

    def push(self, sight: Sight) -> Liveness | None:
        """Look; give the state where it has changed."""
        self._past.append(sight)
        while len(self._past) > 1 and self._past[1].now_s <= sight.now_s - PACE_S:
            self._past.popleft()
        state, cause = self._judge(sight)
        if (state, cause) == (self.now.state, self.now.cause):
            return None
        if state in DEAF or self.now.state in DEAF:
            self._past = deque([sight])  # the pace of before says nothing about that of now
        if state != self.now.state:
            self.changes[state] += 1
        self.now = Liveness(state, cause, sight.now_s)
        return self.now

    def _judge(self, sight: Sight) -> tuple[State, Cause | None]:
        now = self.now
        if not sight.device:
            return "lost", "device"
        if now.state == "lost":
            return "recovering", now.cause
        if now.state not in DEAF:
            return ("stalled", self._why_slow()) if self._is_slow() else self._condition()
        return self._judge_deaf(now, sight.now_s)

    def _judge_deaf(self, now: Liveness, now_s: float) -> tuple[State, Cause | None]:
        """Stalled or recovering, with a device that is there."""
        if self._moves():
            return ("recovering", now.cause) if now.state == "stalled" else self._condition()
        if now.state == "recovering" and now_s - now.since_s >= PACE_S:
            return "stalled", self._why_slow()
        return now.state, now.cause

    def _since(self, seconds: float) -> Sight | None:
        """The newest sight at least so old; None where there is none."""
        newest = self._past[-1]
        return next((sight for sight in reversed(self._past) if newest.now_s - sight.now_s >= seconds), None)

    def _paces(self, seconds: float) -> tuple[float, float] | None:
        """How fast sound was captured and analysed lately, of real time; None where it is too early to say."""
        before, newest = self._since(seconds), self._past[-1]
        if before is None:
            return None
        elapsed_s = newest.now_s - before.now_s
        captured_s, analysed_s = newest.captured_s - before.captured_s, newest.analysed_s - before.analysed_s
        return captured_s / elapsed_s, analysed_s / elapsed_s

    def _is_slow(self) -> bool:
        paces = self._paces(PACE_S)
        return paces is not None and min(paces) < SLOW

    def _moves(self) -> bool:
        paces = self._paces(RECOVER_S)
        return paces is not None and min(paces) >= RECOVERED

    def _why_slow(self) -> Cause:
        captured, _ = self._paces(PACE_S - 1.0) or (0.0, 0.0)
        before, newest = self._since(NOTHING_S) or self._past[0], self._past[-1]
        if captured >= SLOW:
            return "analysis" if before.analysed_s == newest.analysed_s else "too_slow"
        return "no_samples" if before.captured_s == newest.captured_s else "too_few_samples"

    def _condition(self) -> tuple[State, Cause | None]:
        before, newest = self._since(CONDITION_S), self._past[-1]
        if before is None:
            return ("hearing", None) if self.now.state in DEAF else (self.now.state, self.now.cause)
        analysed_s = newest.analysed_s - before.analysed_s
        zero_s, constant_s = newest.zero_s - before.zero_s, newest.constant_s - before.constant_s
        if analysed_s > 0.0 and zero_s + constant_s >= SILENT_SHARE * analysed_s:
            return "silent", "zero" if zero_s > constant_s else "constant"
        share = NO_MORE_CLIPPED_SHARE if self.now.state == "clipped" else CLIPPED_SHARE
        if analysed_s > 0.0 and newest.clipped_s - before.clipped_s >= share * analysed_s:
            return "clipped", "clipped"
        return "hearing", None
