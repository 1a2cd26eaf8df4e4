"""Sample index ↔ UTC."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from agent.clock import (
    SLEW,
    Timeline,
    WallClock,
    boot_id,
    recording_timeline,
    rfc3339,
    time_synced,
    to_milliseconds,
    utc_now,
)

RATE_HZ = 48_000
NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Clocks:
    """A wall clock that can be stepped, and a monotonic clock that cannot."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.synced: bool | None = False
        self._wall_minus_monotonic_s = NOON.timestamp() - 1000.0

    def wall(self) -> float:
        return self.monotonic_s + self._wall_minus_monotonic_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def step_wall(self, seconds: float) -> None:
        self._wall_minus_monotonic_s += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def wall_clock(clocks: Clocks) -> WallClock:
    return WallClock(wall=clocks.wall, monotonic=clocks.monotonic, synced=lambda: clocks.synced, boot="this boot")


@pytest.fixture
def timeline(wall_clock: WallClock) -> Timeline:
    return Timeline(RATE_HZ, wall_clock)


def reckoned(clocks: Clocks, timeline: Timeline, seconds: int) -> list[datetime]:
    """The times of a sound each second, dated as they are heard."""
    times = []
    for _ in range(seconds):
        timeline.anchor(0, clocks.monotonic_s)
        timeline.look()
        times.append(timeline.utc_of(0))
        clocks.monotonic_s += 1.0
    return times


def distances(times: list[datetime]) -> list[float]:
    return [seconds_between(b, a) for a, b in pairwise(times)]


def seconds_between(a: datetime, b: datetime) -> float:
    return (a - b).total_seconds()


def test_a_sample_is_dated_by_its_distance_from_the_anchor(clocks: Clocks, timeline: Timeline) -> None:
    """A sound 90 seconds into the stream is dated 90 seconds after the stream began."""
    timeline.anchor(0, clocks.monotonic_s)

    assert timeline.utc_of(0) == NOON
    assert timeline.utc_of(90 * RATE_HZ) == NOON + timedelta(seconds=90)


def test_a_stream_that_opened_before_it_was_noticed_is_dated_by_when_it_opened(
    clocks: Clocks, timeline: Timeline
) -> None:
    """The anchor is the moment on the monotonic clock that the caller names, not the moment of the call."""
    opened = clocks.monotonic_s
    clocks.monotonic_s += 3.0

    timeline.anchor(0, opened)

    assert timeline.utc_of(0) == NOON


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("step_s", [3600.0, -5400.0, -86_400.0 * 365])
def test_a_step_of_hours_does_not_bend_event_times(
    clocks: Clocks, timeline: Timeline, step_s: float, synced: bool
) -> None:
    """When somebody sets the clock, sounds before and after keep their distance, and no time runs backwards."""
    clocks.synced = synced
    times = reckoned(clocks, timeline, 5)
    clocks.step_wall(step_s)

    times += reckoned(clocks, timeline, 5)

    assert distances(times) == [1.0] * 9
    assert timeline.look().synced is synced


def test_a_step_that_is_not_believed_is_said_once(
    clocks: Clocks, timeline: Timeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says that the wall clock went its own way, and how far; and again when it comes back."""
    clocks.step_wall(3600.0)
    reckoned(clocks, timeline, 5)
    clocks.step_wall(-3600.0)
    reckoned(clocks, timeline, 5)

    assert caplog.messages == ["clock.stepped step_s=+3600.000 followed=no", "clock.stepped step_s=+0.000 followed=no"]


def test_once_a_time_server_was_heard_later_sounds_follow_the_clock(
    clocks: Clocks, wall_clock: WallClock, timeline: Timeline
) -> None:
    """A node that booted without a clock says so, and dates rightly as soon as a time server was reached."""
    before = timeline.look()
    clocks.step_wall(7200.0)
    clocks.synced = True

    after = timeline.look()

    assert (before.synced, after.synced) == (False, True)
    assert after.utc_zero_s - before.utc_zero_s == pytest.approx(7200.0)
    assert timeline.utc_of(0) == NOON + timedelta(hours=2)
    assert (before.boot, after.boot) == ("this boot", "this boot")


@pytest.mark.parametrize("step_s", [-1.0, 1.0, 20.0, -20.0])
def test_a_clock_that_is_right_is_followed_slowly(clocks: Clocks, timeline: Timeline, step_s: float) -> None:
    """A leap second, or a drift that was caught up, is made good within minutes, and no time comes twice."""
    clocks.synced = True
    times = reckoned(clocks, timeline, 5)
    clocks.step_wall(step_s)

    times += reckoned(clocks, timeline, round(abs(step_s) / SLEW) + 5)

    assert all(1.0 - SLEW - 1e-6 <= distance <= 1.0 + SLEW + 1e-6 for distance in distances(times))
    assert seconds_between(times[-1], NOON) == pytest.approx(len(times) - 1 + step_s, abs=1e-3)


@pytest.mark.parametrize(("step_s", "followed_s"), [(7200.0, 7200.0), (-7200.0, 0.0)])
def test_where_nobody_can_say_a_step_forward_is_followed(
    clocks: Clocks, timeline: Timeline, step_s: float, followed_s: float
) -> None:
    """A board without a clock of its own is behind until a time server is heard, even if we may not ask about that."""
    clocks.synced = None
    times = reckoned(clocks, timeline, 2)
    clocks.step_wall(step_s)

    times += reckoned(clocks, timeline, 2)

    assert distances(times) == pytest.approx([1.0, 1.0 + followed_s, 1.0])


def test_time_stays_known_when_the_network_goes(clocks: Clocks, wall_clock: WallClock) -> None:
    """A clock that was right a while ago is still good enough to be believed."""
    clocks.synced = True
    wall_clock.reckon()
    clocks.synced = False

    assert wall_clock.reckon().synced is True


def test_a_thread_that_is_held_up_between_two_clocks_is_not_late_by_that() -> None:
    """On a busy board seconds may pass between reading one clock and the other; the times of events do not show it."""
    now_s, held_up_s = 100.0, iter([5.0, 3.0])

    def monotonic() -> float:
        return now_s

    def wall() -> float:
        nonlocal now_s
        seen = 1000.0 + now_s
        now_s += next(held_up_s, 0.0)
        return seen

    clock = WallClock(wall=wall, monotonic=monotonic, synced=lambda: True, boot="b")

    assert clock.reckon().utc_zero_s == 1000.0


def test_a_boot_has_a_name(tmp_path: Path) -> None:
    """The kernel's; where it cannot be read, one that no other process has."""
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()
    assert boot_id(tmp_path / "none") != boot_id(tmp_path / "none")


def test_now_is_aware_and_in_utc() -> None:
    """The time of day can be told as it is, without a time zone to guess."""
    assert rfc3339(utc_now()).endswith("Z")
    assert abs(seconds_between(utc_now(), datetime.now(UTC))) < 60


def test_a_recording_is_dated_from_its_start_time_in_any_zone() -> None:
    """A recording begun at 14:00 in Berlin in summer is dated 12:00 UTC."""
    start = datetime(2026, 7, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))

    utc_of = recording_timeline(start, 16_000)

    assert rfc3339(utc_of(0)) == "2026-07-01T12:00:00.000Z"
    assert rfc3339(utc_of(24_000)) == "2026-07-01T12:00:01.500Z"


@pytest.mark.parametrize(
    ("microsecond", "told"),
    [(0, "00.000"), (100_400, "00.100"), (100_500, "00.101"), (999_499, "00.999"), (999_500, "01.000")],
)
def test_times_are_told_to_the_nearest_millisecond(microsecond: int, told: str) -> None:
    """Times are RFC 3339 in UTC with exactly three digits of the second, rounded, never cut."""
    moment = NOON.replace(microsecond=microsecond)

    assert rfc3339(moment) == f"2026-01-01T12:00:{told}Z"
    assert rfc3339(to_milliseconds(moment)) == rfc3339(moment)


@pytest.mark.parametrize("kernel", [True, False, None])
def test_without_a_mark_the_kernel_is_asked(tmp_path: Path, kernel: bool | None) -> None:
    """Where timesyncd left no mark, the answer is the kernel's, also that it may not be asked."""
    assert time_synced(tmp_path / "synchronized", lambda: kernel) is kernel


def test_the_mark_of_timesyncd_is_believed(tmp_path: Path) -> None:
    """A clock that systemd-timesyncd has set is trusted, even where the kernel may not be asked."""
    (tmp_path / "synchronized").touch()

    assert time_synced(tmp_path / "synchronized", lambda: None) is True


def test_the_real_kernel_can_be_asked(tmp_path: Path) -> None:
    """Asking the real kernel neither fails nor claims what it does not know."""
    assert time_synced(tmp_path / "absent") in (True, False, None)
