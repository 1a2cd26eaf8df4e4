"""Telling systemd, and the snapshot."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.health import Health, Heartbeat, notify

LIMIT_S = 10.0


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The notify socket as systemd has it, and the environment that it gives us: by path, and by abstract name."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@urbansound-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0") if request.param == "abstract" else name)
        listener.setblocking(False)
        yield listener, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(int(LIMIT_S * 1e6))}


def heard(listener: socket.socket) -> list[str]:
    """What has come since the last time."""
    states = []
    while True:
        try:
            states += listener.recv(4096).decode().splitlines()
        except BlockingIOError:
            return states


def test_ready_is_told_once_and_only_after_analysed_sound(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    """The unit counts as started when the first sound has gone through the network, not before."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment)

    heartbeat.push(0, now=0.0)
    before = heard(listener)
    heartbeat.push(1.0, now=1.0)
    first = heard(listener)
    heartbeat.push(2.0, now=2.0)

    assert before == []
    assert first == ["READY=1", "WATCHDOG=1"]
    assert heard(listener) == []


def test_a_reload_is_told_from_begin_to_end(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    """It is heard when a reload began, and when it is over; but no READY before there was sound."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment)

    heartbeat.reloading(now_us=1)
    heartbeat.reloaded()
    before = heard(listener)
    heartbeat.push(16_000, now=1.0)
    heard(listener)
    heartbeat.reloading(now_us=1_234_567)
    heartbeat.reloaded()

    assert before == []
    assert heard(listener) == ["RELOADING=1", "MONOTONIC_USEC=1234567", "READY=1"]


def test_the_watchdog_is_fed_at_half_its_time_while_sound_is_analysed(
    systemd: tuple[socket.socket, dict[str, str]],
) -> None:
    """With a limit of 10 s and sound flowing, systemd hears from us every 5 s."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment)

    pings = []
    for second in range(1, 22):
        heartbeat.push(float(second), now=float(second))
        if "WATCHDOG=1" in heard(listener):
            pings.append(second)

    assert pings == [1, 6, 11, 16, 21]


@pytest.mark.parametrize("pace", [0.0, 0.5])
def test_the_watchdog_starves_while_less_than_real_time_is_analysed(
    systemd: tuple[socket.socket, dict[str, str]], pace: float
) -> None:
    """An agent that lives but hears nothing, or half of it, is not kept alive; the ping comes back with the sound."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment)
    heartbeat.push(1.0, now=0.0)
    heard(listener)

    for second in range(1, 61):
        heartbeat.push(1.0 + pace * second, now=float(second))
    deaf = heard(listener)
    for second in range(61, 66):
        heartbeat.push(1.0 + pace * 60 + second - 60, now=float(second))

    assert deaf == []
    assert heard(listener) == ["WATCHDOG=1"]


def test_a_watchdog_in_a_hurry_is_fed_in_time(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    """With a limit of 3 s the pace is measured over less than that."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment | {"WATCHDOG_USEC": "3000000"})

    pings = []
    for second in range(1, 10):
        heartbeat.push(float(second), now=float(second))
        if "WATCHDOG=1" in heard(listener):
            pings.append(second)

    assert pings == [1, 3, 5, 7, 9]


def test_the_status_is_told_when_it_changes(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    """`systemctl status` shows the latest line; the same line is not sent twice."""
    listener, environment = systemd
    heartbeat = Heartbeat(environment)

    for status in ("waiting for the microphone", "waiting for the microphone", "hearing"):
        heartbeat.push(0, now=0.0, status=status)

    assert heard(listener) == ["STATUS=waiting for the microphone", "STATUS=hearing"]


def test_a_systemd_that_does_not_listen_costs_no_processor(
    systemd: tuple[socket.socket, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket is full: the state is not told, the log says so, and waiting for room is no busy loop."""
    _, environment = systemd
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.setblocking(False)
        other.connect(environment["NOTIFY_SOCKET"].replace("@", "\0"))
        while True:
            other.send(b"STATUS=")

    used_s = time.thread_time()
    Heartbeat(environment).push(1.0, now=0.0)

    assert "systemd.not_told state=READY=1 reason=timed out" in caplog.text
    assert time.thread_time() - used_s < 0.5, "of the second that it waits"


def test_a_stop_on_purpose_is_told(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    """A wanted stop is told from a crash."""
    listener, environment = systemd

    Heartbeat(environment).stop()

    assert heard(listener) == ["STOPPING=1"]


@pytest.mark.parametrize(
    "changes", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_for_us_nothing_is_pinged(
    systemd: tuple[socket.socket, dict[str, str]], changes: dict[str, str]
) -> None:
    """A watchdog that is off, or meant for another process, gets no pings; READY is told all the same."""
    listener, environment = systemd

    Heartbeat(environment | changes).push(1.0, now=0.0)

    assert heard(listener) == ["READY=1"]


def test_without_systemd_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    """Started by hand, the agent neither fails nor complains."""
    heartbeat = Heartbeat({})
    heartbeat.push(1.0, now=0.0, status="hearing")
    heartbeat.stop()

    assert caplog.records == []


def test_a_dead_notify_socket_does_not_stop_the_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where systemd's socket has gone, the log says so and the agent goes on."""
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})

    assert "systemd.not_told state=READY=1" in caplog.text


def test_the_snapshot_adds_up_what_was_counted() -> None:
    """Counters of the pipeline and facts of the publisher stand side by side, and make one line for people."""
    health = Health()
    for _ in range(10):
        health.count_analysed(16_000)
    health.count_gap(8_000)
    health.count_event()
    health.note_pace(0.4, None)

    snapshot = health.snapshot(
        connected=False,
        delivered=5,
        queued=2,
        dropped=1,
        liveness="silent (zero)",
        coverage_percent=99.5,
        last_error="MQTT broker b:1883: connection refused",
    )

    assert (snapshot.analysed_samples, snapshot.lost_samples, snapshot.gaps, snapshot.events) == (160_000, 8_000, 1, 1)
    assert snapshot.status_line(16_000) == (
        "silent (zero), 10 s analysed, 1 events, coverage 99.5 %, 0.5 s lost in 1 gaps, no broker, 2 messages wait, "
        "1 messages dropped, "
        "MQTT broker b:1883: connection refused"
    )


def test_a_board_that_is_too_slow_is_seen() -> None:
    """Who looks at the status reads that windows come less often, and how late the analysis is."""
    health = Health()
    health.count_analysed(160_000)
    health.note_pace(2.25, 0.4)

    snapshot = health.snapshot(
        connected=True,
        delivered=0,
        queued=0,
        dropped=0,
        liveness="hearing",
        coverage_percent=100.0,
        last_error=None,
    )

    assert (snapshot.late_s, snapshot.wide_hop_s) == (2.25, 0.4)
    assert snapshot.status_line(16_000) == (
        "hearing, 10 s analysed, 0 events, coverage 100.0 %, too slow: a window only each 0.4 s, 2.2 s late, "
        "broker connected"
    )
