"""Analysed, lost, drift and pending add up to the time that has passed, and every hole is told once as a gap."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.accounts import KEEP_S, KEEP_SOON_S, Accounts, Balance
from agent.clock import Reckoning, Timeline, WallClock
from agent.coverage import HOUR_NS, SECOND_NS, Tally
from agent.hours import Hours, LastHeard
from agent.values import AudioBlock, FloatArray, Gap, GapCause

RATE_HZ = 1_000
MONOTONIC_S = 500.0
NOON_S = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def ns(seconds: float) -> int:
    return round(seconds * 1e6) * 1000


class Live:
    """A sensor's run in a world whose clocks the test moves.

    Attributes:
        gaps: what was told.
        now_s: since noon, when it starts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        starts_at_s: float = 0.0,
        boot: str = "boot",
        synced: bool | None = True,
        wrong_by_s: float = 0.0,
    ) -> None:
        self.now_s = starts_at_s
        self.synced, self.wrong_by_s = synced, wrong_by_s
        self.clock = WallClock(
            wall=lambda: NOON_S + self.now_s + self.wrong_by_s,
            monotonic=lambda: MONOTONIC_S + self.now_s,
            synced=lambda: self.synced,
            boot=boot,
        )
        self.gaps: list[Gap] = []
        self.hours = Hours(folder / "coverage.sqlite")
        self.accounts = Accounts(
            self.hours,
            self._tell,
            now_s=self.clock.monotonic(),
            reckoning=self.clock.reckon(),
        )
        self.timeline: Timeline | None = None
        self.next_sample = 0
        self.noise = np.random.default_rng(2)

    def _tell(self, gap: Gap, reckoning: Reckoning) -> None:
        self.gaps.append(gap)
        assert reckoning.boot == self.clock.boot

    def open(self) -> None:
        """The microphone opens now."""
        self.accounts.begin(RATE_HZ)
        self.timeline = Timeline(RATE_HZ, self.clock)

    def hear(
        self, seconds: float, samples: FloatArray | None = None, *, lost_s: float = 0.0, cause: GapCause = "dropped"
    ) -> None:
        """So much is lost, then so much is heard; both take their time."""
        assert self.timeline is not None
        if samples is None:
            samples = self.noise.normal(0.0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
        lost = round(lost_s * RATE_HZ)
        self.now_s += lost_s + seconds
        block = AudioBlock(samples, self.next_sample + lost, lost_before=lost)
        after = block.first_sample + len(samples)
        self.timeline.anchor(after, MONOTONIC_S + self.now_s)
        self.timeline.look()
        if lost or self.next_sample == 0:
            self.accounts.lose(block, cause, self.timeline)
        self.next_sample = after
        self.accounts.hear(block, self.timeline)

    def look(self, deaf: GapCause | None = None, *, away: bool = False) -> Balance:
        return self.accounts.look(MONOTONIC_S + self.now_s, deaf, away=away)

    def finish(self) -> dict[int, Tally]:
        self.accounts.finish(MONOTONIC_S + self.now_s)
        kept = Hours(self.hours._path)
        hours = kept.known()
        kept.close()
        return hours


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    run = Live(tmp_path)
    yield run
    run.hours.close()


def check(balance: Balance) -> Balance:
    """All time is accounted for."""
    total = balance.total
    assert total.analysed + total.lost + balance.drift_ns + balance.pending_ns == balance.elapsed_ns
    return balance


def test_what_is_heard_and_what_is_lost_is_all_there_is(live: Live) -> None:
    """A start of 2 s, sound, a gap and sound again: each second is in its place, and the gaps are told."""
    live.now_s += 2.0
    live.open()
    live.hear(10.0)
    live.hear(5.0, lost_s=3.0)

    balance = check(live.look())

    assert balance.total == Tally(heard=ns(15.0), lost=ns(5.0))
    assert (balance.elapsed_ns, balance.pending_ns, balance.drift_ns, balance.gaps) == (ns(20.0), 0, 0, 2)
    assert live.gaps == [
        Gap(ns(NOON_S), ns(NOON_S + 2.0), ns(2.0), "not_running"),
        Gap(ns(NOON_S + 12.0), ns(NOON_S + 15.0), ns(3.0), "dropped"),
    ]


def test_conditions_are_told_apart(live: Live) -> None:
    """Zeros, a constant and full scale are analysed, and not heard."""
    live.open()
    live.hear(4.0)
    live.hear(3.0, np.zeros(3 * RATE_HZ, np.float32))
    live.hear(2.0, np.full(2 * RATE_HZ, 0.5, np.float32))
    live.hear(1.0, np.tile(np.array([1.0, -1.0], np.float32), RATE_HZ // 2))

    balance = check(live.look())

    assert balance.total == Tally(heard=ns(4.0), silent=ns(5.0), clipped=ns(1.0))
    assert (balance.zero_ns, balance.constant_ns) == (ns(3.0), ns(2.0))


def test_time_without_a_device_is_lost_as_it_passes(live: Live) -> None:
    """While the microphone is away the hours fill up with loss, and when it is back nothing is counted twice."""
    live.open()
    live.hear(100.0)
    for _ in range(7200):
        live.now_s += 1.0
        balance = check(live.look("device", away=True))
        assert balance.pending_ns <= 2 * SECOND_NS
    live.now_s -= 7200.0  # `hear` moves the clock itself
    live.hear(100.0, lost_s=7200.0, cause="device")

    balance = check(live.look())

    assert balance.total == Tally(heard=ns(200.0), lost=ns(7200.0))
    assert balance.pending_ns == 0
    assert (balance.hour_percent, balance.last_hour_percent) == (50.0, 0.0)
    assert live.gaps[1:] == [Gap(ns(NOON_S + 100.0), ns(NOON_S + 7300.0), ns(7200.0), "device")]
    hours = live.finish()
    noon = ns(NOON_S) // HOUR_NS
    assert [hours[noon + i].accounted for i in range(3)] == [HOUR_NS, HOUR_NS, ns(200.0)]
    assert hours[noon + 1].heard == 0


def test_a_microphone_that_is_missing_for_hours_at_start_is_lost_time(live: Live) -> None:
    """All that passes before the first sample is lost; the gap tells why. What is lost later is counted on its own."""
    for _ in range(5000):
        live.now_s += 1.0
        check(live.look("device", away=True))
    live.open()
    live.hear(10.0)
    live.hear(100.0, lost_s=30.0)

    balance = check(live.look())

    assert balance.total == Tally(heard=ns(110.0), lost=ns(5030.0))
    assert live.gaps == [
        Gap(ns(NOON_S), ns(NOON_S + 5000.0), ns(5000.0), "device"),
        Gap(ns(NOON_S + 5010.0), ns(NOON_S + 5040.0), ns(30.0), "dropped"),
    ]


def test_a_restart_tells_the_time_in_between(tmp_path: Path) -> None:
    """From the last sample that the run before has heard to the first of this one there is one gap."""
    first = Live(tmp_path)
    first.open()
    first.hear(50.0)
    first.finish()

    second = Live(tmp_path, starts_at_s=80.0)
    second.now_s += 1.0
    second.open()
    second.hear(10.0)

    assert second.gaps == [Gap(ns(NOON_S + 50.0), ns(NOON_S + 81.0), ns(31.0), "not_running")]
    assert second.look().total == Tally(heard=ns(10.0), lost=ns(1.0)), "of this run"
    assert second.finish() == {ns(NOON_S) // HOUR_NS: Tally(heard=ns(60.0), lost=ns(1.0))}


def test_a_run_that_ended_deaf_is_known_to_the_next(tmp_path: Path) -> None:
    """When the agent left because it heard nothing, the gap that the next start tells has that cause."""
    first = Live(tmp_path)
    first.open()
    first.hear(50.0)
    first.now_s += 12.0
    first.look("stalled")
    hours = first.finish()
    assert hours == {ns(NOON_S) // HOUR_NS: Tally(heard=ns(50.0), lost=ns(12.0))}

    second = Live(tmp_path, starts_at_s=70.0)
    second.open()
    second.hear(1.0)

    assert second.gaps == [Gap(ns(NOON_S + 50.0), ns(NOON_S + 70.0), ns(20.0), "stalled")]
    second.hours.close()


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # The clock was set, and is not now: the start is known, and the end will be put right.
        ({}, {"boot": "next", "synced": False, "wrong_by_s": -400.0}, (1050.0, 700.0, True)),
        # It has not been set in this boot, by neither run: wrong, but by the same.
        ({"synced": False, "wrong_by_s": -400.0}, {"synced": False, "wrong_by_s": -400.0}, (650.0, 700.0, False)),
        # It was not set in the boot before: nobody knows how long the node was off.
        ({"synced": False, "wrong_by_s": -400.0}, {"boot": "next", "synced": False}, (1100.0, 1100.0, False)),
        ({"synced": False, "wrong_by_s": -400.0}, {"boot": "next"}, (1100.0, 1100.0, False)),
        # It was set after the run before, in the same boot: the machine knows how long that is ago.
        ({"synced": False, "wrong_by_s": -400.0}, {}, (1050.0, 1100.0, False)),
        ({"synced": None, "wrong_by_s": -400.0}, {}, (1050.0, 1100.0, False)),
        # It was set, and has gone back since: no gap ends before it began.
        ({}, {"boot": "next", "wrong_by_s": -400.0}, (700.0, 700.0, True)),
    ],
)
def test_time_between_runs_is_told_as_far_as_it_is_known(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], expected: tuple[float, float, bool]
) -> None:
    """A node without a battery for its clock tells no gap that it cannot know."""
    first = Live(tmp_path, starts_at_s=1000.0, **before)
    first.open()
    first.hear(50.0)
    first.finish()

    second = Live(tmp_path, starts_at_s=1100.0, **now)
    second.open()
    second.hear(1.0)
    second.finish()

    (gap,) = second.gaps
    begin_s, end_s, is_right = expected
    assert (gap.start_ns, gap.end_ns, gap.start_is_right) == (ns(NOON_S + begin_s), ns(NOON_S + end_s), is_right)


@pytest.mark.parametrize("synced", [False, None])
def test_the_first_gap_of_a_new_node_is_as_long_as_it_was(tmp_path: Path, synced: bool | None) -> None:
    """Its clock is a month behind, and is set while the microphone is waited for, or before the gap is sent."""
    run = Live(tmp_path, synced=synced, wrong_by_s=-30 * 86_400.0)
    run.now_s += 90.0
    run.synced, run.wrong_by_s = True, 0.0
    run.open()
    run.hear(1.0)
    run.finish()
    assert run.gaps == [Gap(ns(NOON_S), ns(NOON_S + 90.0), ns(90.0), "not_running")]

    later = Live(tmp_path / "later", synced=synced, wrong_by_s=-30 * 86_400.0)
    later.now_s += 90.0
    later.open()
    later.hear(1.0)
    later.finish()
    (gap,) = later.gaps
    assert (gap.lost_ns, gap.start_is_right) == (ns(90.0), False), "both of its ends are put right when it is sent"


@pytest.mark.parametrize("synced", [True, None])
def test_the_gap_of_a_power_cut_is_told_when_the_clock_is_set(tmp_path: Path, synced: bool | None) -> None:
    """Without a battery, the clock begins where it was last saved: before the cut. No gap ends before it began.

    It is told once, when the clock is set or has jumped forward; a kill before that does not cost it.
    """
    first = Live(tmp_path, starts_at_s=1000.0)
    first.open()
    first.hear(50.0)
    first.finish()
    killed = Live(tmp_path, starts_at_s=1090.0, boot="next", synced=synced and False, wrong_by_s=-400.0)
    killed.open()
    killed.hear(1.0)
    killed.accounts.keep(MONOTONIC_S + killed.now_s, at_once=True)
    assert killed.gaps == []
    killed.hours.close()

    second = Live(tmp_path, starts_at_s=1100.0, boot="after", synced=synced and False, wrong_by_s=-400.0)
    second.open()
    for _ in range(3):
        second.hear(1.0)
    assert second.gaps == []
    second.synced, second.wrong_by_s = synced, 0.0
    second.hear(1.0)
    second.hear(1.0)
    second.finish()

    assert second.gaps == [Gap(ns(NOON_S + 1050.0), ns(NOON_S + 1100.0), ns(50.0), "not_running", True)]


def test_a_gap_that_began_later_than_it_was_over_has_no_length(tmp_path: Path) -> None:
    """After a run by a clock that was ahead, which nobody knew: the gap is told once the clock is set, and is empty."""
    first = Live(tmp_path, starts_at_s=1000.0, synced=None, wrong_by_s=5000.0)
    first.open()
    first.hear(50.0)
    first.finish()

    second = Live(tmp_path, starts_at_s=1100.0, boot="next", synced=False, wrong_by_s=-400.0)
    second.open()
    second.hear(1.0)
    assert second.gaps == []
    second.synced, second.wrong_by_s = True, 0.0
    second.hear(1.0)

    assert second.gaps == [Gap(ns(NOON_S + 1100.0), ns(NOON_S + 1100.0), 0, "not_running", True)]
    second.finish()


def test_a_clock_that_is_never_set_holds_no_gap_for_ever(tmp_path: Path) -> None:
    """One run by a clock that was years ahead must not cost the gaps of all the runs after it."""
    ahead = Live(tmp_path, starts_at_s=1000.0, synced=None, wrong_by_s=1e8)
    ahead.open()
    ahead.hear(50.0)
    ahead.finish()
    for boot in ("second", "third"):
        run = Live(tmp_path, starts_at_s=2000.0, boot=boot, synced=None)
        run.open()
        for _ in range(601):
            run.hear(1.0)
        run.accounts.keep(MONOTONIC_S + run.now_s, at_once=True)
        run.hours.close()  # a power cut

    assert [gap.cause for gap in run.gaps] == ["not_running"]
    assert run.gaps[0].end_ns <= ns(NOON_S + 3000.0)
    assert run.gaps[0].lost_ns == 0, "nobody knows"
    assert run.accounts._before.utc_ns == ns(NOON_S + 2601.0), "until then the run before had heard"


def test_nothing_is_written_more_often_than_it_must(live: Live) -> None:
    """The card is written about once a minute, and at once when it matters, as at the end."""
    noon = ns(NOON_S) // HOUR_NS
    live.open()
    assert live.hours.last_heard() == LastHeard(ns(NOON_S), "boot", True, None, ns(MONOTONIC_S))
    kept = []
    for second in range(1, 200):
        live.hear(1.0)
        live.accounts.keep(MONOTONIC_S + live.now_s, at_once=second == 30)
        if live.hours.known().get(noon) == Tally(heard=ns(second)):
            kept.append(second)
            assert live.hours.last_heard() == LastHeard(
                ns(NOON_S + second), "boot", True, None, ns(MONOTONIC_S + second)
            )

    first = round(KEEP_SOON_S)  # the gap of the start
    assert kept == [first, 30, 30 + KEEP_S, 30 + 2 * KEEP_S]
    assert live.finish() == {noon: Tally(heard=ns(199.0))}


def test_sound_that_trickles_away_is_a_gap(live: Live) -> None:
    """A loss too small to be told from jitter each time is told when it has grown."""
    live.open()
    for _ in range(100):
        live.hear(9.8)
        live.now_s += 0.2  # nobody has noticed

    balance = check(live.look())

    trickles = [gap for gap in live.gaps if gap.cause == "trickle"]
    assert balance.gaps == 1 + len(trickles) == len(live.gaps)
    assert sum(gap.lost_ns for gap in trickles) == balance.total.lost
    assert balance.total.lost == pytest.approx(ns(20.0), rel=0.15)
    assert all(gap.end_ns - gap.start_ns > gap.lost_ns for gap in trickles)
    for earlier, later in itertools.pairwise(trickles):
        assert later.start_ns == pytest.approx(earlier.end_ns, abs=ns(0.001))


@pytest.mark.parametrize("ppm", [-300, 300])
def test_a_day_is_accounted_for(live: Live, ppm: int) -> None:
    """For a day of sound, gaps, a card that is off, and silence: within 0.1 % of the clock, each hour and in all."""
    live.open()
    for minute in range(24 * 60):
        lost_s = 2.0 if minute % 50 == 7 else 0.0
        silent = np.zeros(60 * RATE_HZ, np.float32) if minute % 60 == 30 else None
        live.hear(60.0, silent, lost_s=lost_s)
        live.now_s += 60.0 * ppm * 1e-6
        balance = check(live.look())
        assert abs(balance.pending_ns) < 0.001 * HOUR_NS

    assert balance.total.lost == ns(2.0) * 29
    assert balance.gaps == len(live.gaps) == 1 + 29
    assert balance.total.accounted == pytest.approx(balance.elapsed_ns, rel=0.001)
    hours = live.finish()
    whole = [tally.accounted for _, tally in sorted(hours.items())[:24]]
    assert whole == pytest.approx([HOUR_NS] * 24, rel=0.001)
