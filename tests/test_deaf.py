"""Deaf time with real components: noticed and said within ten seconds, accounted for, and over when its cause is.

A sound server, PortAudio, mosquitto, SQLite and the agent in a process of its own. Only a thread that hangs and a plug
that is pulled cannot be had here; they are in the agent's own process, through the arguments that it has for that.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.app import Judge
from agent.errors import DeviceAwayError, DeviceHungError
from agent.hours import read_hours
from agent.portaudio import StreamSettings
from agent.sensor import GIVE_UP_S, SILENT_S
from agent.values import FloatArray, Prediction, Window
from tests.broker import DEADLINE_S, Broker, BrokerFactory, Subscriber, SubscriberFactory, wait_until
from tests.commands import Command, CommandFactory
from tests.sound_server import SAMPLE_RATE_HZ, SoundServer
from tests.street import Loudspeaker, Pcm
from tests.test_sensor import GAP, HEALTH, INFO, Running, Systemd, gaps_on, write_config

pytestmark = pytest.mark.slow

NOTICED_S = 10.0
HEARS_AGAIN_S = 10.0
STUTTER_S = 3.0  # of a busy machine: what the test itself may be late by
NOISE_S = 120.0


def noise(seconds: float = NOISE_S) -> Pcm:
    samples: Pcm = np.random.default_rng(5).normal(0.0, 2000.0, round(seconds * SAMPLE_RATE_HZ)).astype(np.int16)
    return samples


def constant(seconds: float) -> Pcm:
    return np.full(round(seconds * SAMPLE_RATE_HZ), 5000, np.int16)


def clipped(seconds: float) -> Pcm:
    square: Pcm = np.tile(np.repeat(np.array([32767, -32768], np.int16), 50), round(seconds * SAMPLE_RATE_HZ / 100))
    return square


class Node:
    """A node whose microphone hears what the test plays.

    Attributes:
        server: the sound server.
        subscriber: hears what the node says.
    """

    def __init__(
        self, urbansound: CommandFactory, server: SoundServer, broker: Broker, subscriber: Subscriber, folder: Path
    ) -> None:
        self.server = server
        self.subscriber = subscriber
        self.folder = folder
        self._urbansound = urbansound
        self._config = write_config(folder, port=broker.port)
        self._loudspeaker: Loudspeaker | None = None

    def connect(self) -> Loudspeaker:
        """Something to hear is there, from now on."""
        self._loudspeaker = Loudspeaker(self.server.load_fifo())
        return self._loudspeaker

    def disconnect(self) -> None:
        if self._loudspeaker is not None:
            self._loudspeaker.close()
            self._loudspeaker = None

    def run(self, more: dict[str, str] | None = None) -> Command:
        return self._urbansound("run", "--config", self._config, environment=self.server.environment, more=more)

    def hearing(self, sound: Pcm) -> Command:
        """Start the agent, and wait until it hears a sound."""
        self.connect().play(sound)
        agent = self.run()
        agent.wait_for_log("liveness.hearing")
        return agent

    @property
    def states(self) -> list[tuple[str, str | None]]:
        """What `info` has said."""
        messages = [json.loads(payload) for payload in self.subscriber.payloads(INFO)]
        parts = [message["liveness"] for message in messages if "liveness" in message]
        return [(part["state"], part.get("cause")) for part in parts]

    def wait_for(self, state: str, cause: str | None, since_s: float, within_s: float) -> None:
        """Until `info` says so, which must be in time."""
        wait_until(lambda: self.states[-1:] == [(state, cause)], f"{state} ({cause})", 30.0)
        assert time.monotonic() - since_s <= within_s + STUTTER_S

    def account(self) -> dict[str, Any]:
        """The last health message, after a check that all time is in it."""
        messages: list[dict[str, Any]] = [json.loads(payload) for payload in self.subscriber.payloads(HEALTH)]
        for message in messages:
            parts = [message[name] for name in ("analysed_s", "lost_s", "drift_s", "pending_s")]
            assert sum(parts) == pytest.approx(message["elapsed_s"], abs=0.005)
            assert message["analysed_s"] <= message["captured_s"]
        return messages[-1]


@pytest.fixture
def node(
    urbansound: CommandFactory,
    breakable_sound_server: SoundServer,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    tmp_path: Path,
) -> Iterator[Node]:
    broker = make_broker().start()
    built = Node(urbansound, breakable_sound_server, broker, subscribe(broker.options()), tmp_path)
    yield built
    built.disconnect()


@pytest.mark.parametrize(
    ("sound", "state", "cause"),
    [
        (lambda seconds: np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16), "silent", "zero"),
        (constant, "silent", "constant"),
        (clipped, "clipped", "clipped"),
    ],
)
def test_samples_that_say_nothing_are_noticed(
    node: Node, sound: Callable[[float], Pcm], state: str, cause: str
) -> None:
    """A dead, a stuck and an overdriven input are said to be so, and hearing comes back by itself."""
    agent = node.hearing(np.concatenate([noise(6.0), sound(12.0), noise(60.0)]))
    node.wait_for(state, cause, time.monotonic(), 30.0)

    node.wait_for("hearing", None, time.monotonic(), 12.0 + HEARS_AGAIN_S)
    agent.signal(signal.SIGTERM)

    assert agent.wait() == 143
    assert node.states.count((state, cause)) == 1
    assert agent.count_log(f"liveness.{state} cause={cause} times=1") == 1


def test_a_microphone_at_half_its_rate_is_noticed_and_starves_the_watchdog(node: Node) -> None:
    """Samples at half the rate: stalled, and lost seconds; hearing when the rate is right; in the end a fresh start."""
    systemd = Systemd(node.folder / "notify")
    loudspeaker = node.connect()
    loudspeaker.play(noise())
    agent = node.run({"NOTIFY_SOCKET": str(node.folder / "notify"), "WATCHDOG_USEC": "4000000"})
    agent.wait_for_log("liveness.hearing")
    wait_until(lambda: systemd.told.count("WATCHDOG=1") >= 2, "two pings")
    loudspeaker.pace = 0.5
    since_s = time.monotonic()
    node.wait_for("stalled", "too_few_samples", since_s, NOTICED_S)
    loudspeaker.pace = 1.0
    node.wait_for("hearing", None, time.monotonic(), HEARS_AGAIN_S)
    loudspeaker.pace = 0.5
    agent.wait_for_log("liveness.stalled", 2)
    n_pings = systemd.told.count("WATCHDOG=1")

    assert agent.wait() == 74
    systemd.close()
    assert systemd.told.count("WATCHDOG=1") == n_pings
    health = node.account()
    assert health["lost_s"] > 4.0
    assert "dropped" in {gap["cause"] for gap in gaps_on(node.subscriber)}


def test_a_frozen_sound_server_is_noticed_and_left(node: Node) -> None:
    """When the sound server freezes: stalled, exit 74; the next start hears, and tells the time in between."""
    agent = node.hearing(noise())
    node.server.freeze()
    frozen_at = time.time()

    node.wait_for("stalled", "no_samples", time.monotonic(), NOTICED_S)
    assert agent.wait() == 74
    assert time.time() - frozen_at < 20.0
    node.server.thaw()
    node.disconnect()
    node.server.stop()
    node.server.start()
    node.connect().play(noise())

    again = node.run()
    again.wait_for_log("liveness.hearing")

    (gap,) = [json.loads(payload) for payload in node.subscriber.wait_for(2, GAP)[1:]]
    assert gap["cause"] == "stalled"
    again.signal(signal.SIGTERM)
    assert again.wait() == 143


def test_a_frozen_sound_server_that_goes_on_in_time_is_heard_again(node: Node) -> None:
    """A server that freezes for some seconds costs no restart, and what it delivers late is not lost."""
    agent = node.hearing(noise())
    node.server.freeze()
    node.wait_for("stalled", "no_samples", time.monotonic(), NOTICED_S)
    node.server.thaw()

    node.wait_for("hearing", None, time.monotonic(), HEARS_AGAIN_S)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 143
    node.account()


def test_a_killed_sound_server_is_noticed_and_heard_again(node: Node) -> None:
    """When the sound server dies: lost; when there is one again, hearing, and the time in between is a gap."""
    agent = node.hearing(noise())
    node.server.stop()
    died_s = time.monotonic()
    node.wait_for("lost", "device", died_s, NOTICED_S)
    node.disconnect()
    node.server.start()
    node.connect().play(noise())

    node.wait_for("hearing", None, time.monotonic(), 30.0)

    (gap,) = gaps_on(node.subscriber)[1:]
    assert (gap["cause"], gap["lost_s"]) == ("device", pytest.approx(gap["duration_s"], abs=0.002))
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 143
    health = node.account()
    assert health["lost_s"] == pytest.approx(sum(gap["lost_s"] for gap in gaps_on(node.subscriber)), abs=0.5)


def test_a_device_that_opens_and_delivers_nothing_is_left(node: Node) -> None:
    """An open device without a single sample: stalled, and a fresh start, not a process that spins for ever."""
    node.server.load_fifo()  # nobody writes into it
    agent = node.run()
    started_s = time.monotonic()

    node.wait_for("stalled", "no_samples", started_s, NOTICED_S + STUTTER_S)

    assert agent.wait() == 74
    assert "sensor.hung reason=stalled for 5 s (no_samples)" in agent.stderr


def test_an_unloaded_source_is_noticed(node: Node) -> None:
    """A source that is taken away while it is heard is noticed, whatever PortAudio makes of it."""
    agent = node.hearing(noise())
    node.server.unload_fifo()
    since_s = time.monotonic()

    # PulseAudio moves whoever listens to another source, here one that is silent.
    wait_until(lambda: node.states[-1][0] in {"lost", "stalled", "silent"}, "it to be noticed", 30.0)

    assert time.monotonic() - since_s <= NOTICED_S + STUTTER_S
    agent.signal(signal.SIGTERM)
    assert agent.wait() in {74, 143}


def test_time_is_accounted_for_over_restarts(node: Node) -> None:
    """Two runs, the first of them killed: what was heard and the gaps are all the time from the first to the last."""
    agent = node.hearing(noise())
    wait_until(lambda: sum(tally.heard for tally in read_hours(node.folder / "coverage.sqlite").values()), "an hour")
    agent.signal(signal.SIGKILL)
    agent.wait()
    again = node.run()
    again.wait_for_log("liveness.hearing")
    again.signal(signal.SIGTERM)
    assert again.wait() == 143
    ended_at = time.time()

    analysed_s = sum(tally.analysed for tally in read_hours(node.folder / "coverage.sqlite").values()) / 1e9
    first, second = gaps_on(node.subscriber)
    assert first["cause"] == second["cause"] == "not_running"
    elapsed_s = ended_at - datetime.fromisoformat(first["start"]).timestamp()
    assert analysed_s + first["lost_s"] + second["lost_s"] == pytest.approx(elapsed_s, abs=1.0)  # the exit's share


# In the agent's own process


class PacedCard:
    """A sound card in real time, which can be unplugged.

    Attributes:
        plugged: whether it is there.
    """

    def __init__(self) -> None:
        self.plugged = True
        self._noise = np.random.default_rng(6)

    def open(self, _settings: StreamSettings, _refresh: bool) -> "PacedStream":
        if not self.plugged:
            raise DeviceAwayError("nothing plugged in")
        return PacedStream(self)

    def sound(self, n_samples: int) -> FloatArray:
        samples: FloatArray = self._noise.normal(0.0, 0.05, (n_samples, 1)).astype(np.float32)
        return samples


class PacedStream:
    sample_rate_hz = SAMPLE_RATE_HZ
    description = "card"

    def __init__(self, card: PacedCard) -> None:
        self._card = card
        self._next_s = 0.0

    def start(self) -> None:
        self._next_s = time.monotonic()

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        self._next_s += n_samples / SAMPLE_RATE_HZ
        threading.Event().wait(max(0.0, self._next_s - time.monotonic()))
        if not self._card.plugged:
            raise DeviceAwayError("the plug was pulled")
        return self._card.sound(n_samples), False

    def close(self) -> None:
        pass


class Paced(Running):
    """Such a sensor in real time, with the limits that it has in a street."""

    def __init__(self, card: PacedCard, judge: Judge, folder: Path) -> None:
        super().__init__(card.open, judge, folder, silent_s=SILENT_S, give_up_s=GIVE_UP_S)

    def _run(self) -> None:
        started_s = time.monotonic()
        super()._run()
        self.elapsed_s = time.monotonic() - started_s

    @property
    def state(self) -> str:
        return self.sensor._lookout.in_words()

    def wait_for(self, state: str, within_s: float = DEADLINE_S) -> None:
        wait_until(lambda: self.state == state, state, within_s + STUTTER_S)


def test_a_pulled_plug_is_noticed_at_once_and_all_time_is_in_the_file(judge: Judge, tmp_path: Path) -> None:
    """Unplugged for some seconds: lost, then hearing; heard and lost seconds are the time that has passed."""
    card = PacedCard()
    with closing(Paced(card, judge, tmp_path)) as sensor:
        sensor.wait_for("hearing")
        card.plugged = False
        sensor.wait_for("lost (device)", NOTICED_S)
        card.plugged = True
        sensor.wait_for("hearing", HEARS_AGAIN_S)
        sensor.stop.set()

        assert sensor.wait() is None

        tallies = read_hours(tmp_path / "coverage.sqlite").values()
        accounted_s = sum(tally.accounted for tally in tallies) / 1e9
        assert accounted_s == pytest.approx(sensor.elapsed_s, abs=0.1)
        gaps = [json.loads(message.payload) for message in sensor.outbox.spool.oldest(100)]
        assert [gap["cause"] for gap in gaps if "lost_s" in gap] == ["not_running", "device"]


def test_an_analysis_that_hangs_is_noticed_and_left(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the pipeline thread does not come back: stalled within ten seconds, then the error to leave by."""
    card = PacedCard()
    hangs = threading.Event()
    released = threading.Event()
    predict_all = judge.classifier.predict_all

    def predict(windows: Sequence[Window]) -> list[Prediction]:
        if hangs.is_set():
            released.wait(3 * DEADLINE_S)
        return predict_all(windows)

    monkeypatch.setattr(judge.classifier, "predict_all", predict)
    with ExitStack() as stack:
        sensor = stack.enter_context(closing(Paced(card, judge, tmp_path)))
        stack.callback(released.set)
        sensor.wait_for("hearing")
        hangs.set()

        sensor.wait_for("stalled (analysis)", NOTICED_S)
        error = sensor.wait()

        assert isinstance(error, DeviceHungError)
        assert error.exit_code == 74
        tallies = read_hours(tmp_path / "coverage.sqlite").values()
        assert sum(tally.accounted for tally in tallies) / 1e9 == pytest.approx(sensor.elapsed_s, abs=0.1)
