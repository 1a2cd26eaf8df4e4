"""Promises about time, kept by the real agent while its wall clock is set under it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent.broker import RETRY_MAX_S
from agent.clock import TIMESYNCD_MARK
from tests.broker import DEADLINE_S, Broker, BrokerFactory, Subscriber, SubscriberFactory, wait_until
from tests.commands import Command, CommandFactory
from tests.sound_server import SoundServer
from tests.street import Loudspeaker, Sound
from tests.test_sensor import EVENT, write_config
from tests.wall_clock import SetClock

HOUR_S = 3600.0
TOLERANCE_S = 1.0  # of a placed onset in a siren; steps are hours


SAYS_WHAT_TIME_IT_IS = """
import time
from pathlib import Path
from agent.clock import time_synced
while input():
    print(time.time(), time.monotonic(), time_synced(Path("/nowhere")), flush=True)
"""


def test_the_clock_is_what_the_test_sets(set_clock: SetClock) -> None:
    """The test's own tool: wall clock and the kernel's word change in a running process, the monotonic clock stays."""
    child = subprocess.Popen(
        [sys.executable, "-c", SAYS_WHAT_TIME_IT_IS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | set_clock.environment,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for ahead_s, synced in ((0.0, False), (HOUR_S, True), (-2.5 * HOUR_S, False)):
        set_clock.set(ahead_s, synced=synced)
        child.stdin.write("now\n")
        child.stdin.flush()
        wall_s, monotonic_s, is_synced = child.stdout.readline().split()

        assert float(wall_s) == pytest.approx(time.time() + ahead_s, abs=10.0)
        assert float(monotonic_s) == pytest.approx(time.monotonic(), abs=10.0)
        assert is_synced == str(synced)
    child.stdin.write("\n")
    child.communicate(timeout=DEADLINE_S)


@dataclass
class Node:
    """An agent whose clock is two hours behind, and does not know it; its broker does not run yet."""

    agent: Command
    broker: Broker
    loudspeaker: Loudspeaker


@pytest.fixture
def node(
    set_clock: SetClock,
    urbansound: CommandFactory,
    breakable_sound_server: SoundServer,
    make_broker: BrokerFactory,
    tmp_path: Path,
) -> Iterator[Node]:
    """It listens."""
    if TIMESYNCD_MARK.exists():
        pytest.skip("the clock of this machine is set by systemd-timesyncd, and everybody may know")
    broker = make_broker()
    set_clock.set(-2 * HOUR_S, synced=False)
    with closing(Loudspeaker(breakable_sound_server.load_fifo())) as loudspeaker:
        config = write_config(tmp_path, port=broker.port)
        agent = urbansound(
            "run", "--config", config, environment=breakable_sound_server.environment, more=set_clock.environment
        )
        agent.wait_for_log("capture.opened")
        yield Node(agent, broker, loudspeaker)


@pytest.mark.slow
def test_steps_of_hours_do_not_bend_what_is_heard(
    node: Node, set_clock: SetClock, subscribe: SubscriberFactory, wail: Sound, siren: Sound
) -> None:
    """A node that boots two hours behind, hears a time server, and is then set forward and back by hand.

    All that it heard arrives, in order, at the time at which it sounded and as long as it was, also what was heard
    before the time was known, and the siren during which the clock was set.
    """
    played_at = [node.loudspeaker.play(wail.samples)]
    node.agent.wait_for_log("event.end", 1)
    set_clock.set(0.0, synced=True)
    played_at.append(node.loudspeaker.play(wail.samples))
    node.agent.wait_for_log("event.end", 2)
    played_at.append(node.loudspeaker.play(siren.samples))
    node.agent.wait_for_log("event.start", 3)
    set_clock.set(HOUR_S, synced=True)
    node.agent.wait_for_log("event.end", 3)
    set_clock.set(-HOUR_S / 2, synced=True)
    played_at.append(node.loudspeaker.play(wail.samples))
    node.agent.wait_for_log("event.end", 4)

    subscriber = subscribe(node.broker.start().options())
    wait_until(lambda: len(ends(subscriber)) == 4, "all that was heard", RETRY_MAX_S + DEADLINE_S)
    node.agent.signal(signal.SIGTERM)
    assert node.agent.wait() == 143
    told = ends(subscriber)
    starts_s = [datetime.fromisoformat(event["start"]).timestamp() for event in told]
    assert starts_s == pytest.approx(played_at, abs=TOLERANCE_S)
    assert all(event["quality"] == {"time_synced": True} for event in told)
    for event, sound in zip(told, (wail, wail, siren, wail), strict=True):
        assert event["duration_s"] == pytest.approx(sound.duration_s, abs=TOLERANCE_S)
        lasted = datetime.fromisoformat(event["end"]) - datetime.fromisoformat(event["start"])
        assert lasted.total_seconds() == pytest.approx(event["duration_s"])
    assert told[0]["queued_s"] > told[-1]["queued_s"]
    assert "clock.synced step_s=+7200" in node.agent.stderr
    assert "followed=no" in node.agent.stderr


def ends(subscriber: Subscriber) -> list[dict[str, Any]]:
    events = [json.loads(payload) for payload in subscriber.payloads(EVENT)]
    return [event for event in events if event["event_type"] == "end"]
