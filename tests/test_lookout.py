"""Each change of liveness is said once, everywhere; how the sensor does is said once a minute; the sums are right."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.accounts import Accounts
from agent.capture import CaptureSnapshot, State
from agent.clock import Reckoning
from agent.health import Health
from agent.hours import Hours
from agent.lookout import Lookout
from agent.wire import HEALTH_INTERVAL_S, LivenessPart

RATE_HZ = 1_000
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
START_S = 300.0


class Looked:
    """A lookout in a world that the test moves on second by second.

    Attributes:
        liveness, health: what was said.
        now_s: seconds since the start.
        behind: how far the clock is behind.
    """

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.behind = timedelta()
        self.liveness: list[LivenessPart] = []
        self.health: list[Mapping[str, object]] = []
        self.counters = Health()
        self.captured = 0
        self.hours = Hours(folder / "coverage.sqlite")
        reckoning = Reckoning("boot", NOON.timestamp() - START_S, synced=True)
        accounts = Accounts(self.hours, lambda gap, _reckoning: None, now_s=START_S, reckoning=reckoning)
        self.lookout = Lookout(
            accounts,
            self.counters,
            say_liveness=self.liveness.append,
            say_health=self.health.append,
            now_s=START_S,
            now=lambda: NOON + timedelta(seconds=self.now_s) - self.behind,
        )

    def go_on(self, seconds: int, *, state: State = "running", samples: int = RATE_HZ, analysed: bool = True) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.captured += samples
            if analysed:
                self.counters.count_analysed(samples)
            capture = CaptureSnapshot(state, self.captured, 0, 0, 2, 1)
            self.lookout.look(START_S + self.now_s, capture, sample_rate_hz=RATE_HZ, waiting=0)


@pytest.fixture
def looked(tmp_path: Path) -> Looked:
    return Looked(tmp_path)


def test_a_change_is_said_once_in_the_log_and_to_the_broker(looked: Looked, caplog: pytest.LogCaptureFixture) -> None:
    """From start to hearing, the microphone gone, and back again: five changes, each said once, with its time."""
    caplog.set_level(logging.INFO)
    looked.go_on(20)
    looked.go_on(30, state="waiting", samples=0)
    looked.go_on(20)

    said = [(part.state, part.cause) for part in looked.liveness]
    assert said == [
        ("recovering", "start"),
        ("hearing", None),
        ("lost", "device"),
        ("recovering", "device"),
        ("hearing", None),
    ]
    assert looked.liveness[2].since == NOON + timedelta(seconds=21)
    assert [message.partition(" ")[0] for message in caplog.messages] == [
        "liveness.hearing",
        "liveness.lost",
        "liveness.recovering",
        "liveness.hearing",
    ]
    assert caplog.records[1].levelno == logging.WARNING
    assert "liveness.hearing cause=- times=2" in caplog.messages
    assert looked.lookout.in_words() == "hearing"


def test_health_is_said_once_a_minute_and_with_each_change(looked: Looked) -> None:
    """Who subscribes hears from the node each minute, and at once when something is wrong."""
    looked.go_on(10)
    n_at_first = len(looked.health)
    looked.go_on(round(3 * HEALTH_INTERVAL_S))
    assert len(looked.health) == n_at_first + 3

    looked.go_on(2, state="waiting", samples=0)

    assert len(looked.health) == n_at_first + 4
    assert looked.health[-1]["changes"] == {"recovering": 1, "hearing": 1, "lost": 1}
    assert (looked.health[-1]["reopened"], looked.health[-1]["overflows"]) == (1, 2)


def test_since_when_it_hears_is_put_right_when_the_clock_is_set(looked: Looked) -> None:
    """A node that was started a month behind does not say for ever that it has been hearing for a month."""
    looked.behind = timedelta(days=30)
    looked.go_on(10)
    wrong = looked.liveness.pop()

    looked.behind = timedelta()
    looked.go_on(round(2 * HEALTH_INTERVAL_S))

    assert looked.liveness[1:] == [wrong.model_copy(update={"since": wrong.since + timedelta(days=30)})]


def test_the_seconds_add_up(looked: Looked) -> None:
    """Analysed, lost, drift and pending are the time that has passed, in each message."""
    looked.go_on(100)
    looked.go_on(200, state="waiting", samples=0)

    assert len(looked.health) >= 5
    for facts in looked.health:
        parts = [facts[name] for name in ("analysed_s", "lost_s", "drift_s", "pending_s")]
        assert sum(parts) == pytest.approx(facts["elapsed_s"], abs=0.005)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"state": "waiting", "samples": 0}, "device"),
        ({"samples": 0}, "stalled"),
        ({"analysed": False}, "stalled"),
        ({}, None),
    ],
)
def test_why_the_run_ended_deaf_is_kept(looked: Looked, how: dict[str, object], expected: str | None) -> None:
    """The next start can tell why nothing was heard before it."""
    looked.go_on(20)
    looked.go_on(20, **how)  # type: ignore[arg-type]

    assert looked.lookout._why_deaf() == expected


@pytest.mark.parametrize(
    ("how", "state", "expected"),
    [
        ({"samples": 0}, "running", "no_samples"),
        ({"samples": RATE_HZ // 2}, "running", "too_few_samples"),
        ({"analysed": False}, "running", "analysis"),
        ({"samples": 0}, "open", "no_samples"),  # it does not start
        ({"samples": 0}, "new", None),  # opening has a deadline of its own
        ({"samples": 0}, "waiting", None),  # a device that is away is waited for
        ({}, "running", None),
    ],
)
def test_what_does_not_come_back_is_left(
    looked: Looked, how: dict[str, Any], state: State, expected: str | None
) -> None:
    """After some seconds of it, and not before, there is a reason to leave for a fresh start."""
    looked.go_on(20)
    for _ in range(20):
        looked.go_on(1, state=state, **how)
        why = looked.lookout.hopeless(START_S + looked.now_s, 5.0)
        assert why is None or START_S + looked.now_s - why.since_s >= 5.0

    assert (why.cause if why else None) == expected


def test_a_slow_first_opening_is_no_reason_to_leave(looked: Looked) -> None:
    """Opened after half a minute, a microphone has as long to give samples as any other: else it is never heard."""
    looked.go_on(25, state="new", samples=0)
    for seconds in range(1, 5):
        looked.go_on(1, state="open", samples=0)
        assert looked.lookout.hopeless(START_S + looked.now_s, 5.0) is None, seconds
    looked.go_on(2, state="open", samples=0)
    assert looked.lookout.hopeless(START_S + looked.now_s, 5.0) is not None


def test_the_start_is_no_reason_to_be_called_deaf(looked: Looked) -> None:
    """Recovering because of the start: nothing is wrong yet."""
    assert looked.lookout.in_words() == "recovering (start)"
    assert looked.lookout._why_deaf() is None
