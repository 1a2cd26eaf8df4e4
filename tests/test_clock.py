"""Sample index ↔ UTC."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from agent.clock import Timeline, recording_timeline, rfc3339, time_synced, to_milliseconds, utc_now

RATE_HZ = 48_000
NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Clocks:
    """A wall clock that can be stepped, and a monotonic clock that cannot."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
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
def timeline(clocks: Clocks) -> Timeline:
    return Timeline(RATE_HZ, wall=clocks.wall, monotonic=clocks.monotonic)


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


@pytest.mark.parametrize("step_s", [3600.0, -5400.0, 0.5, -86_400.0 * 365])
def test_a_step_of_the_wall_clock_does_not_bend_event_times(clocks: Clocks, timeline: Timeline, step_s: float) -> None:
    """When somebody sets the clock, sounds before and after keep their distance, and no time runs backwards."""
    times = []
    for second in range(10):
        if second == 5:
            clocks.step_wall(step_s)
        timeline.anchor(second * RATE_HZ, clocks.monotonic_s)
        times.append(timeline.utc_of(second * RATE_HZ))
        clocks.monotonic_s += 1.0

    assert [seconds_between(b, a) for a, b in pairwise(times)] == [1.0] * 9


def test_after_resync_later_sounds_follow_the_corrected_clock(clocks: Clocks, timeline: Timeline) -> None:
    """A node that booted without a clock dates correctly as soon as a time server was reached."""
    clocks.step_wall(7200.0)
    assert timeline.utc_of(0) == NOON

    timeline.resync()

    assert timeline.utc_of(0) == NOON + timedelta(hours=2)


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
