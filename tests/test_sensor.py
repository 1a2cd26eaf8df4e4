"""Promises of `agent.sensor`: what a street sounds like is on the broker, live, whatever goes wrong on the way."""

import json
import logging
import queue
import re
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.app import Judge
from agent.capture import Microphone
from agent.config import Config, InferenceConfig
from agent.errors import AgentError, DatabaseError, DeviceAwayError, DeviceHungError
from agent.health import Heartbeat
from agent.hours import Hours
from agent.outbox import Outbox
from agent.portaudio import OpenStream, StreamSettings
from agent.sensor import Sensor
from agent.stop import Stop
from agent.values import FloatArray, Prediction, Window
from tests.broker import (
    DEADLINE_S,
    HOST,
    Broker,
    BrokerFactory,
    Certificates,
    Subscriber,
    SubscriberFactory,
    free_port,
    wait_until,
)
from tests.commands import Command, CommandFactory
from tests.sound_server import SAMPLE_RATE_HZ, SoundServer
from tests.street import Loudspeaker, Sound

NODE = "urbansound/node-07"
EVENT, GAP, LEVEL = (f"{NODE}/street/{what}" for what in ("event", "gap", "level"))
STATUS, INFO, HEALTH = f"{NODE}/status", f"{NODE}/info", f"{NODE}/health"
TIME_TOLERANCE_S = 0.1


def write_config(folder: Path, *, port: int, device: str = "fifomic", more: str = "") -> Path:
    file = folder / "agent.toml"
    file.write_text(
        f"""
[node]
id = "node-07"
[audio]
device = "{device}"
sample_rate_hz = {SAMPLE_RATE_HZ}
channel = 1
[mqtt]
host = "{HOST}"
port = {port}
keepalive_s = 5
[spool]
path = "{folder}/spool.sqlite"
{more}
""",
        encoding="utf-8",
    )
    return file


def events_on(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in subscriber.payloads(EVENT)]


def gaps_on(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in subscriber.payloads(GAP)]


def seqs_on(subscriber: Subscriber) -> list[int]:
    """Of all that came by the spool."""
    return sorted(subscriber.seqs(EVENT) + subscriber.seqs(GAP) + subscriber.seqs(LEVEL))


def ends_on(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [event for event in events_on(subscriber) if event["event_type"] == "end"]


def wait_for_offline(subscriber: Subscriber) -> None:
    """Until the node has said `online`, perhaps again when it knew more, and in the end `offline`."""
    wait_until(lambda: subscriber.payloads(STATUS)[-1:] == [b"offline"], "`offline`")
    assert set(subscriber.payloads(STATUS)[:-1]) == {b"online"}


# A street, played to the agent in real time


@dataclass
class Heard:
    """What came of it.

    Attributes:
        rows: what `urbansound replay` says about the same file.
        live: the events that the broker got, live.
        gaps: the gaps, live.
        levels: how loud it was each two seconds, live.
        duration_s, loudest_db: what `urbansound levels` says about the same file.
        health: how the sensor was doing, live.
        played_at: when the street began to play, in seconds since 1970.
        told_before_sound: what systemd was told before there was any.
        told: what it was told in all.
        wrong_port: the broker's port in the file.
        port: the broker's port in the environment.
        status: on the broker in the end, retained.
        info: on the broker, retained.
        code: the exit code after SIGTERM.
        log: standard error.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    levels: list[dict[str, Any]] = field(default_factory=list)
    duration_s: float = 0.0
    loudest_db: float = 0.0
    health: list[dict[str, Any]] = field(default_factory=list)
    played_at: float = 0.0
    told_before_sound: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    wrong_port: int = 0
    port: int = 0
    status: list[bytes] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    code: int = 0
    log: str = ""


class Systemd:
    """What listens at the notify socket.

    Attributes:
        told: all that it was told.
    """

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096).decode():
            self.told += message.splitlines()

    def close(self) -> None:
        """Hear all that has been said, and no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._listener.join(DEADLINE_S)
        self._socket.close()


@pytest.fixture(scope="module")
def heard(street: Sound, siren: Sound, sound_server: SoundServer, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """The street is played; then a siren, and in the middle of it comes SIGTERM."""
    folder = tmp_path_factory.mktemp("live")
    heard = Heard(wrong_port=free_port())
    config = write_config(folder, port=heard.wrong_port, more="[levels]\ninterval_s = 2")
    fifo = sound_server.load_fifo()
    with ExitStack() as stack:
        broker = Broker(folder / "broker").start()
        stack.callback(broker.kill)
        heard.port = broker.port
        subscriber = Subscriber(broker.options())
        stack.callback(subscriber.close)
        systemd = stack.enter_context(closing(Systemd(folder / "notify")))
        more = {"NOTIFY_SOCKET": str(folder / "notify"), "URBANSOUND_MQTT__PORT": str(broker.port)}
        agent = Command(["run", "--config", config], environment=sound_server.environment, more=more)
        stack.callback(agent.end)
        agent.wait_for_log("capture.opened")
        agent.wait_for_log("mqtt.connected")
        wait_until(lambda: "STATUS=waiting for the microphone" in systemd.told, "systemd to hear of us")
        heard.told_before_sound = list(systemd.told)

        loudspeaker = stack.enter_context(closing(Loudspeaker(fifo)))
        wait_until(lambda: "READY=1" in systemd.told, "READY")
        heard.played_at = loudspeaker.play(street.samples)
        replay = Command(["replay", street.file])
        stack.callback(replay.end)
        assert replay.wait() == 0
        heard.rows = [json.loads(line) for line in replay.lines]
        measure = Command(["levels", "--format", "jsonl", street.file])
        stack.callback(measure.end)
        assert measure.wait() == 0
        heard.duration_s, heard.loudest_db = (
            json.loads(measure.lines[0])[name] for name in ("duration_s", "lafmax_db")
        )
        deadline_s = street.duration_s + DEADLINE_S
        wait_until(lambda: len(ends_on(subscriber)) >= len(heard.rows), "the street to be heard", deadline_s)
        loudspeaker.play(siren.samples)
        wait_until(lambda: events_on(subscriber)[-1]["event_type"] == "start", "the siren")
        agent.signal(signal.SIGTERM)
        heard.code = agent.wait()

        later = Subscriber(broker.options())
        stack.callback(later.close)
        heard.status = later.wait_for(1, STATUS)
        heard.info = json.loads(later.wait_for(1, INFO)[0])
        heard.live = events_on(subscriber)
        heard.gaps = gaps_on(subscriber)
        heard.levels = [json.loads(payload) for payload in subscriber.payloads(LEVEL)]
        heard.health = [json.loads(payload) for payload in subscriber.payloads(HEALTH)]
        heard.told = systemd.told
        heard.log = agent.stderr
    return heard


def test_a_street_heard_live_is_the_street_replayed(heard: Heard) -> None:
    """Real recordings that are played to the microphone give the same labels as a replay of the same file.

    Onsets and offsets agree within 0.1 s and are those of the world's clock; durations are what lies between them.
    """
    ends = [event for event in heard.live if event["event_type"] == "end"][:-1]  # without the last siren

    assert [event["label"] for event in ends] == [row["label"] for row in heard.rows]
    assert len({row["label"] for row in heard.rows}) >= 4
    starts_s, ends_s = (
        [datetime.fromisoformat(event[name]).timestamp() for event in ends] for name in ("start", "end")
    )
    for live_s, name in ((starts_s, "onset_s"), (ends_s, "offset_s")):
        replayed_s = [heard.played_at + row[name] for row in heard.rows]
        np.testing.assert_allclose(live_s, replayed_s, rtol=0, atol=TIME_TOLERANCE_S)
    durations_s = [event["duration_s"] for event in ends]
    np.testing.assert_allclose(durations_s, np.subtract(ends_s, starts_s), rtol=0, atol=0.0015)


def test_each_live_event_is_told_from_start_to_end(heard: Heard) -> None:
    """A subscriber gets each message once, in order, and for each event one start and one end with the same id."""
    all_told = heard.live + heard.gaps + heard.levels
    assert sorted(message["seq"] for message in all_told) == list(range(1, len(all_told) + 1))
    assert [event["seq"] for event in heard.live] == sorted(event["seq"] for event in heard.live)
    told: dict[str, list[str]] = {}
    for event in heard.live:
        told.setdefault(event["event_id"], []).append(event["event_type"])
        assert (event["node"], event["source"], event["replayed"]) == ("node-07", "street", False)
    assert all((states[0], states[-1]) == ("start", "end") for states in told.values())


def test_all_that_was_heard_has_its_level(heard: Heard) -> None:
    """Every two seconds, on the marks of UTC, without a hole but the gaps, to the end; as loud as the file."""
    levels = [
        one | {name: datetime.fromisoformat(one[name]).timestamp() for name in ("start", "end")} for one in heard.levels
    ]

    holes = [(before["end"], after["start"]) for before, after in pairwise(levels) if before["end"] != after["start"]]
    assert len(holes) <= len(heard.gaps) - 1  # the first gap is from before the start
    whole = [one for one in levels if one["duration_s"] == 2.0]
    assert len(whole) >= len(levels) - 2 - 2 * len(holes)
    assert {one["start"] % 2 for one in whole} == {0.0}
    heard_s = levels[-1]["end"] - heard.played_at
    assert heard_s >= heard.rows[-1]["offset_s"]
    loudest = max(one["lafmax_db"] for one in levels if one["start"] - heard.played_at < heard.duration_s)
    assert loudest == pytest.approx(heard.loudest_db, abs=0.2)


def test_systemd_is_told_ready_only_when_sound_has_been_analysed(heard: Heard) -> None:
    """A microphone that is open but gives nothing is not READY; in the end comes STOPPING."""
    assert "READY=1" not in heard.told_before_sound
    assert heard.told.count("READY=1") == 1
    assert heard.told[-1] == "STOPPING=1"
    assert any("s analysed" in state and "broker connected" in state for state in heard.told)


def test_sigterm_ends_what_is_open_and_says_offline(heard: Heard) -> None:
    """`systemctl stop` in the middle of a siren: its end is told, the node says `offline`, and the exit code is 143."""
    last = heard.live[-1]

    assert (last["event_type"], last["end_reason"], last["label"]) == ("end", "shutdown", "siren")
    assert heard.code == 143
    assert heard.status == [b"offline"]


def test_the_environment_wins_over_the_file(heard: Heard) -> None:
    """With URBANSOUND_MQTT__PORT the broker of the environment is used, and that of the file never asked."""
    assert f"mqtt.connected broker={HOST}:{heard.port}" in heard.log
    assert str(heard.wrong_port) not in heard.log
    assert "mqtt.away" not in heard.log


def test_the_node_says_how_it_captures(heard: Heard) -> None:
    """The retained `info` names the microphone and its rate."""
    assert heard.info["sources"] == [{"id": "street", "sample_rate_hz": SAMPLE_RATE_HZ}]


# What can happen to it


class Bench:
    """A node with a microphone of its own and a broker that does not run yet.

    Attributes:
        broker: to be started.
        sound_server: what the microphone hangs on.
        folder: of configuration and spool.
        play: gives the microphone something to hear, beside silence.
    """

    def __init__(
        self,
        urbansound: CommandFactory,
        sound_server: SoundServer,
        broker: Broker,
        loudspeaker: Loudspeaker,
        folder: Path,
    ) -> None:
        self.broker = broker
        self.sound_server = sound_server
        self.folder = folder
        self.play = loudspeaker.play
        self._urbansound = urbansound

    def run(self, *, device: str = "fifomic") -> Command:
        """Start the agent."""
        config = write_config(self.folder, port=self.broker.port, device=device)
        return self._urbansound("run", "--config", config, environment=self.sound_server.environment)

    def listen(self) -> Command:
        """Start the agent, and wait until it listens."""
        agent = self.run()
        agent.wait_for_log("capture.opened")
        return agent


@pytest.fixture
def bench(
    urbansound: CommandFactory, breakable_sound_server: SoundServer, make_broker: BrokerFactory, tmp_path: Path
) -> Iterator[Bench]:
    """A node to be maltreated."""
    loudspeaker = Loudspeaker(breakable_sound_server.load_fifo())
    yield Bench(urbansound, breakable_sound_server, make_broker(), loudspeaker, tmp_path)
    loudspeaker.close()


def test_ctrl_c_ends_what_is_open(bench: Bench, subscribe: SubscriberFactory, siren: Sound) -> None:
    """Ctrl-C in the middle of a siren: its end is on the broker before the agent leaves, with 130."""
    subscriber = subscribe(bench.broker.start().options())
    agent = bench.listen()
    bench.play(siren.samples)
    agent.wait_for_log("event.start")

    agent.signal(signal.SIGINT)

    assert agent.wait() == 130
    start, end = (json.loads(payload) for payload in subscriber.wait_for(2, EVENT))
    assert (start["event_type"], end["event_type"], end["end_reason"]) == ("start", "end", "shutdown")
    assert end["event_id"] == start["event_id"]
    wait_for_offline(subscriber)


def test_nothing_that_was_told_is_lost_by_kill_9(bench: Bench, subscribe: SubscriberFactory, street: Sound) -> None:
    """Killed with the broker away: after a restart each message comes once, in order, and then what was open is ended.

    The agent hears without a broker, and says that it is away. After the restart there is no microphone: what waits
    needs none.
    """
    agent = bench.listen()
    bench.play(street.samples[3 * SAMPLE_RATE_HZ :])  # from the middle of the siren; then a dog
    agent.wait_for_log("event.end")

    agent.signal(signal.SIGKILL)
    agent.wait()

    assert "mqtt.away" in agent.stderr
    with closing(sqlite3.connect(bench.folder / "spool.sqlite")) as spool:
        spooled = [
            json.loads(payload)
            for (payload,) in spool.execute("SELECT payload FROM outbox WHERE topic = ? ORDER BY seq", (EVENT,))
        ]
    assert sorted(message["event_type"] for message in spooled if message["event_type"] != "update") == [
        "end",
        "start",
        "start",
    ]
    assert len(spooled) >= agent.count_log("event."), "what the log tells of is on disk"
    ended = {message["event_id"] for message in spooled if message["event_type"] == "end"}
    left_open = list(dict.fromkeys(message["event_id"] for message in spooled if message["event_id"] not in ended))
    assert left_open
    subscriber = subscribe(bench.broker.start().options())

    again = bench.run(device="no such microphone")
    subscriber.wait_for(len(spooled) + len(left_open), EVENT)
    again.signal(signal.SIGTERM)

    assert again.wait() == 143
    arrived = events_on(subscriber)
    for draft, message in zip(spooled, arrived, strict=False):
        draft.pop("stamp", None)
        assert message.pop("queued_s") > 0.0
        assert message == draft
    assert [(message["event_id"], message["end_reason"]) for message in arrived[len(spooled) :]] == [
        (event_id, "interrupted") for event_id in left_open
    ]
    assert [message["seq"] for message in arrived] == sorted(message["seq"] for message in arrived)
    assert len(set(seqs_on(subscriber))) == len(seqs_on(subscriber)), "no number twice; a kill skips some"


def test_a_missing_microphone_is_waited_for_and_said_so(bench: Bench, subscribe: SubscriberFactory) -> None:
    """Without its microphone the agent says what it waits for and what there is, is online, and can be stopped."""
    subscriber = subscribe(bench.broker.start().options())
    agent = bench.run(device="USB street mic")

    agent.wait_for_log('capture.waiting retry_s=1 reason=no input device "USB street mic", expected one of:')
    agent.wait_for_log("capture.waiting", 2)
    subscriber.wait_for(1, STATUS)
    agent.signal(signal.SIGTERM)

    assert agent.wait() == 143
    assert '"fifomic"' in agent.stderr
    wait_for_offline(subscriber)


def test_a_full_disk_does_not_stop_the_agent(bench: Bench, subscribe: SubscriberFactory, siren: Sound) -> None:
    """While the spool cannot be written events wait in memory, and arrive; the log says so, and when there is room."""
    subscriber = subscribe(bench.broker.start().options())
    agent = bench.listen()
    limits = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))

    bench.play(siren.samples)
    wait_until(lambda: len(ends_on(subscriber)) == 1, "the siren")
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, limits)
    agent.wait_for_log("spool.writable")
    agent.signal(signal.SIGTERM)

    assert agent.wait() == 143
    assert f"spool.unwritable reason=spool {bench.folder}/spool.sqlite: cannot be used (" in agent.stderr
    assert [event["event_type"] for event in events_on(subscriber)][:1] == ["start"]


def test_what_a_full_disk_cost_is_said_in_the_end(bench: Bench, siren: Sound) -> None:
    """Without a broker and without room, a stop loses what was heard: the agent leaves with 74, and says how much."""
    agent = bench.listen()
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    bench.play(siren.samples)
    agent.wait_for_log("event.end")
    agent.signal(signal.SIGTERM)

    assert agent.wait() == 74
    assert f"urbansound: spool {bench.folder}/spool.sqlite: cannot be used (" in agent.stderr
    assert re.search(r"\d+ messages are lost$", agent.stderr.strip())
    assert "Traceback" not in agent.stderr


def test_a_frozen_sound_server_does_not_keep_the_agent(
    bench: Bench, subscribe: SubscriberFactory, siren: Sound
) -> None:
    """When PortAudio hangs, the open event still ends and arrives; then the agent leaves with 74 for a fresh start."""
    subscriber = subscribe(bench.broker.start().options())
    agent = bench.listen()
    bench.play(siren.samples)
    agent.wait_for_log("event.start")
    bench.sound_server.freeze()

    agent.signal(signal.SIGTERM)

    assert agent.wait() == 74
    assert "sensor.hung" in agent.stderr
    wait_for_offline(subscriber)
    assert [event["event_type"] for event in events_on(subscriber)] == ["start", "end"]


# With a sound card that does what the test says


class Card:
    """A sound card that plays an array as fast as it is read, and then does as it is told.

    Args:
        samples: float32 (n,), played once; more comes with `play`.
    """

    def __init__(self, samples: FloatArray | None = None) -> None:
        self.orders: queue.SimpleQueue[FloatArray | Exception] = queue.SimpleQueue()
        self.n_opened = 0
        self.n_closed = 0
        self.to_raise_on_open: Exception | None = None
        self.on_open: Callable[[], object] = lambda: None
        self.close_hangs: threading.Event | None = None
        if samples is not None:
            self.play(samples)

    def play(self, samples: FloatArray) -> None:
        for start in range(0, len(samples), SAMPLE_RATE_HZ // 10):
            self.orders.put(samples[start : start + SAMPLE_RATE_HZ // 10])

    def open(self, _settings: StreamSettings, _refresh: bool) -> "CardStream":
        self.on_open()
        if self.to_raise_on_open is not None:
            raise self.to_raise_on_open
        self.n_opened += 1
        return CardStream(self)


class CardStream:
    sample_rate_hz = SAMPLE_RATE_HZ
    description = "card"

    def __init__(self, card: Card) -> None:
        self.card = card

    def start(self) -> None:
        pass

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        try:
            order = self.card.orders.get(timeout=0.1)
        except queue.Empty:
            return np.zeros((0, 1), np.float32), False
        if isinstance(order, Exception):
            raise order
        return order[:, None], False

    def close(self) -> None:
        if self.card.close_hangs is not None:
            self.card.close_hangs.wait(DEADLINE_S)
        self.card.n_closed += 1


class Running:
    """A sensor on threads of this process, and its outbox."""

    def __init__(
        self,
        open_stream: OpenStream,
        judge: Judge,
        folder: Path,
        *,
        mqtt: dict[str, Any] | None = None,
        silent_s: float = 60.0,
        give_up_s: float = 60.0,
        close_deadline_s: float = 4.0,
    ) -> None:
        mqtt = {"host": HOST, "port": free_port()} | (mqtt or {})
        config = Config.model_validate({"mqtt": mqtt, "spool": {"path": str(folder / "spool.sqlite")}})
        self.stop = Stop()
        self.outbox = Outbox(config, judge, environment={}, stop=self.stop)
        microphone = Microphone(open_stream=open_stream, backoff_s=(0.01, 0.01), close_deadline_s=close_deadline_s)
        hours = Hours(folder / "coverage.sqlite")
        self.sensor = Sensor(
            microphone, judge, self.outbox, self.stop, hours, ring_s=60.0, silent_s=silent_s, give_up_s=give_up_s
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="main")
        self.outbox.publisher.start()
        self._thread.start()

    def _run(self) -> None:
        try:
            self.sensor.run(Heartbeat({}))
        except BaseException as error:  # noqa: BLE001  given to the test
            self.error = error

    def wait(self) -> BaseException | None:
        """Until it has ended; give the error."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the sensor does not end"
        return self.error

    def told(self) -> list[tuple[str, str | None]]:
        """What is in the spool: state and reason of each message."""
        payloads = [json.loads(message.payload) for message in self.outbox.spool.oldest(1000)]
        return [(told["event_type"], told.get("end_reason")) for told in payloads if "event_type" in told]

    def close(self) -> None:
        self.stop.set()
        self._thread.join(DEADLINE_S)
        self.outbox.publisher.stop(0.0)
        self.outbox.spool.close()


@pytest.fixture
def run_sensor(judge: Judge, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts sensors, and stops them."""
    running: list[Running] = []

    def start(card: Card, **how: Any) -> Running:  # noqa: ANN401  what Running takes
        running.append(Running(card.open, judge, tmp_path, **how))
        return running[-1]

    yield start
    for sensor in running:
        sensor.close()


@pytest.fixture(scope="module")
def howl(siren: Sound) -> FloatArray:
    """Four seconds of siren, from the first sample on."""
    samples: FloatArray = siren.samples[SAMPLE_RATE_HZ : 5 * SAMPLE_RATE_HZ].astype(np.float32) * np.float32(2.0**-15)
    return samples


def test_a_microphone_that_goes_away_ends_what_is_open(run_sensor: Callable[..., Running], howl: FloatArray) -> None:
    """A siren does not stay on for subscribers while the microphone is away; when it is back, there is a new event."""
    card = Card(howl)
    sensor = run_sensor(card, silent_s=0.3)
    wait_until(lambda: sensor.told() == [("start", None), ("end", "gap")], "the end of the siren")

    card.orders.put(DeviceAwayError("unplugged"))
    card.play(howl)
    wait_until(lambda: len(sensor.told()) == 4, "the second siren")

    assert sensor.told() == [("start", None), ("end", "gap")] * 2
    assert card.n_opened == 2
    sensor.stop.set()
    assert sensor.wait() is None


def test_a_pause_of_the_sound_server_cuts_nothing(run_sensor: Callable[..., Running], howl: FloatArray) -> None:
    """A sound server that stutters and then delivers everything does not make two events of one."""
    card = Card(howl)
    sensor = run_sensor(card, silent_s=30.0)
    wait_until(lambda: sensor.told() == [("start", None)], "the siren")
    card.play(howl)
    wait_until(card.orders.empty, "all to be heard")

    sensor.stop.set()

    assert sensor.wait() is None
    assert sensor.told() == [("start", None), ("end", "shutdown")]


def test_a_bug_in_capture_is_not_taken_for_the_end(
    run_sensor: Callable[..., Running], howl: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the capture thread dies, the agent does not leave with 0 as if it had been told to."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the traceback is not this test's business
    card = Card(howl)
    card.orders.put(ZeroDivisionError())

    sensor = run_sensor(card)
    error = sensor.wait()

    assert isinstance(error, AgentError)
    assert str(error) == "capture is failed, expected sound until a signal comes"
    assert sensor.told() == [("start", None), ("end", "gap")]


def test_a_stop_while_the_microphone_is_opened_is_a_stop(run_sensor: Callable[..., Running]) -> None:
    """A signal while the microphone is being opened ends the agent, and the device is given back."""
    card = Card()
    opening = threading.Event()
    card.on_open = lambda: opening.wait(DEADLINE_S)
    sensor = run_sensor(card)

    sensor.stop.set()
    opening.set()

    assert sensor.wait() is None
    assert card.n_opened == card.n_closed == 1


def test_a_stop_before_the_microphone_starts_is_a_stop(
    run_sensor: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one that comes a moment later, when it is open and not yet started."""
    card = Card()
    built = threading.Event()
    stages = Judge.stages

    def slow(self: Judge, sample_rate_hz: int) -> object:
        built.wait(DEADLINE_S)
        return stages(self, sample_rate_hz)

    monkeypatch.setattr(Judge, "stages", slow)
    sensor = run_sensor(card)
    wait_until(lambda: card.n_opened == 1, "the microphone")

    sensor.stop.set()
    wait_until(lambda: card.n_closed == 1, "the microphone to be given back")
    built.set()

    assert sensor.wait() is None


def test_a_stop_while_the_microphone_is_missing_is_a_stop(run_sensor: Callable[..., Running]) -> None:
    """Who waits for a microphone can be stopped."""
    card = Card()
    card.to_raise_on_open = DeviceAwayError("nothing plugged in")
    sensor = run_sensor(card)
    wait_until(lambda: sensor.sensor._microphone.snapshot().state == "waiting", "it to wait")

    sensor.stop.set()

    assert sensor.wait() is None


def test_a_sound_system_that_hangs_is_told_as_such(run_sensor: Callable[..., Running], howl: FloatArray) -> None:
    """When the device cannot be closed, what is open ends, and the error says to leave without further ado."""
    card = Card(howl)
    card.close_hangs = threading.Event()
    sensor = run_sensor(card, close_deadline_s=0.3)
    wait_until(lambda: sensor.told() == [("start", None)], "the siren")

    sensor.stop.set()
    error = sensor.wait()
    card.close_hangs.set()

    assert isinstance(error, DeviceHungError)
    assert sensor.told() == [("start", None), ("end", "shutdown")]


def test_a_spool_that_fails_stops_the_sensor(
    run_sensor: Callable[..., Running], howl: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that cannot be kept stops the agent with the spool's own error."""

    def fail(*_: object, **__: object) -> int:
        raise DatabaseError("spool: the disk is full")

    card = Card()
    sensor = run_sensor(card)
    monkeypatch.setattr(sensor.outbox.spool, "append", fail)
    card.play(howl)

    error = sensor.wait()

    assert isinstance(error, DatabaseError)
    assert error.exit_code == 74


def test_a_board_that_is_too_slow_judges_less_often_and_loses_nothing(
    run_sensor: Callable[..., Running], judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows come at a wider hop until the board keeps up; when it has time again, at the configured one.

    Here each window takes as long as 0.2 s of sound while sound waits, and no longer than it must when all is done.
    """
    card = Card()

    def judged(windows: Sequence[Window]) -> list[Prediction]:
        silence = np.zeros(len(judge.labels), np.float32)
        for window in windows:
            heard_s = (window.n_new_frames or 80) / 80
            late_s = running.sensor._health.late_s
            card.play(np.zeros(round(SAMPLE_RATE_HZ * (0.2 if late_s > 0.5 else heard_s)), np.float32))
        return [Prediction(silence, silence, window.first_sample, window.n_samples) for window in windows]

    monkeypatch.setattr(judge.classifier, "predict_all", judged)
    running = run_sensor(card)
    card.play(np.zeros(2 * SAMPLE_RATE_HZ, np.float32))

    def hops() -> list[str]:
        return re.findall(r"pipeline\.hop window_hop_s=([\d.]+)", caplog.text)

    wait_until(lambda: hops()[-1:] == ["0.1"], "the configured hop")
    assert hops()[0] == "0.2"
    assert "0.4" in hops()
    assert "capture.gap" not in caplog.text
    assert running.sensor._health.wide_hop_s is None


@pytest.fixture
def failing_judge(delegate: str, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """On a delegate that fails after 60 steps: not while it is tried, but before eight seconds are judged."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "180")  # three pools a step
    judge = Judge(Config(inference=InferenceConfig(accelerator=delegate)), live=True)
    assert judge.accelerator.name == "delegate"
    return judge


def test_an_accelerator_that_fails_cuts_nothing(
    failing_judge: Judge, howl: FloatArray, broker: Broker, subscribe: SubscriberFactory, tmp_path: Path
) -> None:
    """It goes in the middle of a siren: that stays one event, and `info` and the status say what happened."""
    subscriber = subscribe(broker.options())
    card = Card(np.tile(howl, 2))
    sensor = Running(card.open, failing_judge, tmp_path, mqtt={"host": HOST, "port": broker.port}, silent_s=0.3)
    try:
        start, end = (json.loads(payload) for payload in subscriber.wait_for(2, "urbansound/node/street/event"))
        wait_until(
            lambda: json.loads(subscriber.payloads("urbansound/node/info")[-1])["accelerator"]["name"] == "cpu",
            "`info` that names the CPU",
        )
        status = sensor.sensor._status()
    finally:
        sensor.close()

    assert (start["event_type"], end["event_type"], end["end_reason"]) == ("start", "end", "gap")
    assert end["duration_s"] == pytest.approx(8.0, abs=0.5)
    assert "on the CPU: delegate: failed while it ran: the device has gone" in status


def test_a_bug_in_the_analysis_is_not_hidden(
    run_sensor: Callable[..., Running], howl: FloatArray, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody expected ends the agent with its traceback; the microphone is given back."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(judge.classifier, "predict_all", fail)
    card = Card(howl)

    sensor = run_sensor(card)

    assert isinstance(sensor.wait(), ZeroDivisionError)
    assert card.n_closed == 1


@pytest.fixture(params=["away", "wrong password", "wrong CA"])
def unwilling(
    request: pytest.FixtureRequest,
    make_broker: BrokerFactory,
    certificates: Certificates,
    other_certificates: Certificates,
) -> tuple[dict[str, Any], str]:
    """A broker that does not take our messages, how it is configured, and what is to be in the log."""
    if request.param == "away":
        port = free_port()
        return {"port": port}, f"MQTT broker {HOST}:{port}: connection refused"
    if request.param == "wrong password":
        port = make_broker(passwords={"node-07": "correct"}).start().port
        why = f"MQTT broker {HOST}:{port}: refuses us, user name 'node-07': wrong password, or not allowed"
        return {"port": port, "username": "node-07", "password": "wrong"}, why
    port = make_broker(certificates=certificates).start().port
    tls = {"enabled": True, "ca_file": str(other_certificates.ca)}
    return {"port": port, "tls": tls}, f"MQTT broker {HOST}:{port}: its certificate is not trusted"


def test_without_a_broker_the_street_is_heard_and_kept(
    run_sensor: Callable[..., Running],
    howl: FloatArray,
    unwilling: tuple[dict[str, Any], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a broker that is away, refuses our password or is not trusted, the agent hears and keeps, and says why."""
    mqtt, why = unwilling
    caplog.set_level(logging.INFO)

    sensor = run_sensor(Card(howl), mqtt=mqtt)

    wait_until(lambda: sensor.told() == [("start", None)], "the siren to be kept")
    wait_until(lambda: "event.start label=siren" in caplog.text, "the siren in the log")
    wait_until(lambda: why in caplog.text, f"{why!r} in the log")
    assert any(message.startswith("mqtt.away retry_s=") and why in message for message in caplog.messages)
    assert sensor.error is None


def test_only_the_moment_is_taken_from_the_clock(run_sensor: Callable[..., Running], howl: FloatArray) -> None:
    """The length of an event is counted in samples: sound that comes faster than real time is not shorter for it."""
    card = Card(np.concatenate([np.zeros(SAMPLE_RATE_HZ, np.float32), howl, np.zeros(5 * SAMPLE_RATE_HZ, np.float32)]))
    sensor = run_sensor(card)
    wait_until(lambda: len(sensor.told()) == 2, "the siren")

    (*_, last) = [message for message in sensor.outbox.spool.oldest(10) if message.topic.endswith("/event")]
    assert json.loads(last.payload)["duration_s"] == pytest.approx(4.0, abs=0.5)
