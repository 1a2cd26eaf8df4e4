"""The live sensor's account of its time: what the pipeline thread hears becomes hours, and holes in it become gaps.

In: blocks, on the pipeline thread, once they are analysed; looks and the keeping on disk, on the main thread. Out:
gaps, which are told at once, and the `Balance`. One lock serves both threads; the disk is written outside of it.

Time is monotonic, since the start of the agent. What is not yet booked is pending: sound in the ring, a slice that was
begun, or silence of a sound system that may still deliver everything.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.clock import Reckoning, Timeline, to_ns
from agent.condition import Condition, Inspector, Run
from agent.coverage import HOUR_NS, KIND_OF, SECOND_NS, Ledger, Tally, duration_ns
from agent.hours import Hours, LastHeard
from agent.values import AudioBlock, Gap, GapCause

SETTLE_NS = 60 * SECOND_NS
KEEP_S = 60.0
KEEP_SOON_S = 5.0  # a gap that is told must not be told again after a kill; but gaps may come each second
HELD_NS = 600 * SECOND_NS  # the clock is set within seconds of a network, or not soon
MARGIN_NS = SECOND_NS  # what comes last before a device goes may still be on its way to the ledger


@dataclass(frozen=True, slots=True)
class Balance:
    """The account at one moment: elapsed = analysed + lost + drift + pending.

    Attributes:
        elapsed_ns: since the start, by the monotonic clock.
        total: what is booked.
        drift_ns: how far the sound card's clock has fallen behind it.
        pending_ns: what is not booked yet.
        zero_ns, constant_ns: parts of what is silent.
        gaps: how many gaps were told.
        hour_percent: the coverage of the hour so far.
        last_hour_percent: of the hour before; None where nothing is known of it.
    """

    elapsed_ns: int
    total: Tally
    drift_ns: int
    pending_ns: int
    zero_ns: int
    constant_ns: int
    gaps: int
    hour_percent: float
    last_hour_percent: float | None


class Accounts:
    """The account.

    Args:
        hours: what is kept on disk.
        tell: takes each gap when it is over, and by what it is dated; called on the pipeline thread.
        now_s: monotonic time of the start.
        reckoning: how UTC follows from it.
    """

    def __init__(
        self, hours: Hours, tell: Callable[[Gap, Reckoning], None], *, now_s: float, reckoning: Reckoning
    ) -> None:
        self._hours = hours
        self._tell = tell
        self._started_s = now_s
        utc_ns = round((reckoning.utc_zero_s + now_s) * SECOND_NS)
        self._ledger = Ledger(utc_ns, hours.known())
        start = LastHeard(utc_ns, reckoning.boot, reckoning.synced is not False, None, round(now_s * SECOND_NS))
        before = hours.last_heard()
        if before is None:  # were it killed now, the next start would know since when
            hours.keep({}, start)
        self._before = before if before is not None and _can_be_told(before, reckoning) else start
        self._last_heard: LastHeard | None = None  # of this run
        self._lock = threading.Lock()
        self._is_new = True
        self._booked_ahead_ns = 0  # of a gap that is not over yet
        self._settled_ns = 0
        self._booked_sample = 0
        self._of_condition: Counter[Condition] = Counter()
        self._gaps = 0
        self._deaf: GapCause | None = None
        self._kept_s = now_s
        self._has_told = False
        self._held: tuple[Gap, int, Reckoning] | None = None  # the first gap, and the sample it ends with

    def begin(self, sample_rate_hz: int) -> None:
        """The microphone is open."""
        self._rate_hz = sample_rate_hz
        self._inspector = Inspector(sample_rate_hz)

    def lose(self, block: AudioBlock, cause: GapCause, timeline: Timeline) -> None:
        """There is a gap before this block, or it is the first one; before the block is analysed."""
        begin = block.first_sample - block.lost_before
        is_right = False
        begin_ns, end_ns = to_ns(timeline.utc_of(begin)), to_ns(timeline.utc_of(block.first_sample))
        with self._lock:
            if self._is_new:  # all from the start of the agent to the first sample that it has heard
                self._is_new = False
                lost_ns = self._clock_ns(timeline.monotonic_of(block.first_sample)) - self._ledger.position_ns
                begin_ns, is_right = self._began(timeline.reckoning)
                cause = self._deaf or self._before.cause or "not_running"
            else:
                self._book(self._inspector.flush())
                lost_ns = duration_ns(begin, block.lost_before, self._rate_hz) - self._booked_ahead_ns
            self._booked_ahead_ns = 0
            self._ledger.book("lost", lost_ns)
            self._ledger.date(end_ns)
            self._gaps += 1
        if not is_right or timeline.reckoning.synced:
            begin_ns = min(begin_ns, end_ns)
        gap = Gap(begin_ns, end_ns, max(0, end_ns - begin_ns), cause, is_right)
        if end_ns < begin_ns:  # the clock is not set yet, and is behind what it was when it was
            self._held = (gap, block.first_sample, timeline.reckoning)
            return
        self._tell(gap, timeline.reckoning)
        self._has_told = True

    def hear(self, block: AudioBlock, timeline: Timeline) -> None:
        """A block has been analysed."""
        missing_ns = 0
        next_sample = block.first_sample + len(block.samples)
        with self._lock:
            self._book(self._inspector.push(block.samples))
            booked = next_sample - self._inspector.begun
            utc_ns = to_ns(timeline.utc_of(booked))
            self._ledger.date(utc_ns)
            by = timeline.reckoning
            monotonic_ns = round(timeline.monotonic_of(next_sample) * SECOND_NS)
            self._last_heard = LastHeard(
                to_ns(timeline.utc_of(next_sample)), by.boot, by.synced is not False, None, monotonic_ns
            )
            if self._ledger.position_ns - self._settled_ns >= SETTLE_NS:
                since_ns = self._ledger.unsettled_ns
                missing_ns = self._ledger.settle(self._clock_ns(timeline.monotonic_of(booked)))
                self._gaps += missing_ns > 0
                self._settled_ns = self._ledger.position_ns
        if self._held is not None:
            self._tell_held(*self._held[:2], timeline, to_ns(timeline.utc_of(next_sample)))
        if missing_ns > 0:
            self._tell(Gap(utc_ns - since_ns - missing_ns, utc_ns, missing_ns, "trickle"), timeline.reckoning)

    def total(self) -> Tally:
        """What has become of the time since the start, as far as it is booked."""
        with self._lock:
            return self._ledger.total

    def look(self, now_s: float, deaf: GapCause | None, *, away: bool) -> Balance:
        """How it stands; on the main thread, about once a second.

        Args:
            now_s: monotonic.
            deaf: why nothing is heard; None while it is.
            away: whether nothing can come any more of what has passed: the device is gone, and what came is analysed.
        """
        with self._lock:
            self._deaf = deaf
            clock_ns = self._clock_ns(now_s)
            if away:
                ahead_ns = max(0, clock_ns - MARGIN_NS - self._ledger.position_ns)
                self._ledger.book("lost", ahead_ns)
                self._booked_ahead_ns += ahead_ns
            return self._balance(clock_ns)

    def keep(self, now_s: float, *, at_once: bool = False) -> None:
        """Write what is new to the disk, once in `KEEP_S`, and soon after a gap; on the main thread."""
        if not at_once and now_s - self._kept_s < (KEEP_SOON_S if self._has_told else KEEP_S):
            return
        self._has_told = False
        self._kept_s = now_s
        with self._lock:
            news = self._ledger.take_news()
            last_heard, deaf = None if self._held else self._last_heard, self._deaf  # or a kill would cost the gap
        self._hours.keep(news, None if last_heard is None else replace(last_heard, cause=deaf))

    def finish(self, now_s: float) -> None:
        """The agent ends: what is pending will not be heard."""
        with self._lock:
            self._ledger.book("lost", self._clock_ns(now_s) - self._ledger.position_ns)
            held, self._held = self._held, None
        if held is not None:  # the clock may yet be set while it waits to be sent
            self._tell(held[0], held[2])
        self.keep(now_s, at_once=True)
        self._hours.close()

    def _began(self, now: Reckoning) -> tuple[int, bool]:
        """When the first gap began, and whether that stays when the clock is set."""
        before = self._before
        if before.monotonic_ns is not None and before.boot == now.boot:  # whatever the clock was set to meanwhile
            return round(now.utc_zero_s * SECOND_NS) + before.monotonic_ns, False
        return before.utc_ns, before.is_right

    def _tell_held(self, gap: Gap, end: int, timeline: Timeline, heard_ns: int) -> None:
        """Tell the first gap once the clock is set, or at least not behind the time at which it began.

        Nobody waits for that for ever: after a while it is told as it is, and put right if it still waits then.
        """
        end_ns = to_ns(timeline.utc_of(end))
        if timeline.reckoning.synced or end_ns >= gap.start_ns:
            start_ns = min(gap.start_ns, end_ns)
            gap = replace(gap, start_ns=start_ns, end_ns=end_ns, lost_ns=end_ns - start_ns)
        elif heard_ns - end_ns < HELD_NS:
            return
        self._tell(gap, timeline.reckoning)
        self._held = None  # only now: until it is told, no mark on the disk may say that it was
        self._has_told = True

    def _clock_ns(self, monotonic_s: float) -> int:
        return round((monotonic_s - self._started_s) * SECOND_NS)

    def _book(self, runs: Iterable[Run]) -> None:
        for run in runs:
            ns = duration_ns(self._booked_sample, run.n_samples, self._rate_hz)
            self._booked_sample += run.n_samples
            self._ledger.book(KIND_OF[run.condition], ns)
            self._of_condition[run.condition] += ns

    def _balance(self, clock_ns: int) -> Balance:
        ledger = self._ledger
        this_hour = ledger.utc_ns // HOUR_NS
        return Balance(
            elapsed_ns=clock_ns,
            total=ledger.total,
            drift_ns=ledger.drift_ns,
            pending_ns=clock_ns - ledger.position_ns,
            zero_ns=self._of_condition["zero"],
            constant_ns=self._of_condition["constant"],
            gaps=self._gaps,
            hour_percent=ledger.percent_of_hour(this_hour) or 0.0,
            last_hour_percent=ledger.percent_of_hour(this_hour - 1),
        )


def _can_be_told(before: LastHeard, now: Reckoning) -> bool:
    """Whether the time between the runs is known: by a clock that was set, or by one that has not been since."""
    return before.is_right or before.boot == now.boot
