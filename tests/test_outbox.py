"""Promises of `agent.outbox`: what is told reaches the broker, rightly dated, and no event stays open."""

import json
import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.app import Judge
from agent.broker import Publication
from agent.clock import Reckoning, Timeline, WallClock, recording_timeline
from agent.config import Config, MqttConfig, TlsConfig
from agent.errors import DatabaseError
from agent.outbox import Outbox, broker_options
from agent.shelf import KINDS
from agent.stop import Stop
from agent.values import IntervalLevel, LevelStatistics, SoundEvent
from tests.broker import DEADLINE_S, Broker, BrokerFactory, Certificates, SubscriberFactory, wait_until

RATE_HZ = 16_000
START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
TOPIC = "urbansound/node-07/street/event"
STATUS = "urbansound/node-07/status"
INFO = "urbansound/node-07/info"


def config_for(broker: Broker, folder: Path, **sections: Any) -> Config:  # noqa: ANN401  any section of the file
    return Config.model_validate(
        {
            "node": {"id": "node-07"},
            "mqtt": {"host": broker.host, "port": broker.port},
            "spool": {"path": str(folder / "spool.sqlite")},
        }
        | sections
    )


def event(state: str, *, id: int = 0, onset_s: float = 1.0, offset_s: float | None = None) -> SoundEvent:
    ended = state == "end"
    return SoundEvent(
        id=id,
        state=state,  # type: ignore[arg-type]
        label="siren",
        onset=round(onset_s * RATE_HZ),
        offset=round((offset_s or onset_s + 2.0) * RATE_HZ) if ended else None,
        heard_until=round((onset_s + 2.5) * RATE_HZ),
        likelihood_peak=0.9,
        likelihood_mean=0.8,
        end_reason="quiet" if ended else None,
    )


# Broker options


def test_broker_options_are_those_of_the_configuration(tmp_path: Path, certificates: Certificates) -> None:
    """Host, port, user and password arrive; TLS changes the port where none is named."""
    (tmp_path / "password").write_text("secret\n")
    plain = MqttConfig.model_validate({"host": "broker.example", "username": "node", "keepalive_s": 7})
    encrypted = plain.model_copy(
        update={"tls": TlsConfig(enabled=True, ca_file=certificates.ca), "password_file": tmp_path / "password"}
    )

    one, other = broker_options(plain, {}), broker_options(encrypted, {})

    assert (one.host, one.port, one.username, one.password, one.tls) == ("broker.example", 1883, "node", None, None)
    assert one.keepalive_s == 7
    assert (other.port, other.password) == (8883, "secret")
    assert other.tls is not None


def test_options_differ_where_the_broker_or_we_do(tmp_path: Path, certificates: Certificates) -> None:
    """The same files make the same options; a new password or a renewed certificate makes others."""
    password, ca = tmp_path / "password", tmp_path / "ca.pem"
    password.write_text("first\n")
    shutil.copy(certificates.ca, ca)
    mqtt = MqttConfig(
        host="broker.example", username="node", password_file=password, tls=TlsConfig(enabled=True, ca_file=ca)
    )

    first, again = broker_options(mqtt, {}), broker_options(mqtt, {})
    password.write_text("second\n")
    new_password = broker_options(mqtt, {})
    ca.write_bytes(certificates.ca.read_bytes() + b"\n")
    renewed = broker_options(mqtt, {})

    assert first == again
    assert first.tls is not again.tls
    assert first != new_password
    assert new_password != renewed


# The outbox


def test_what_is_told_reaches_the_broker(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """An event's messages arrive in order, with one id, a rising seq and the time of the sound in UTC."""
    subscriber = subscribe(broker.options())

    with Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop()) as outbox:
        tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
        tell(event("start"))
        tell(event("end"))
        first, last = (json.loads(payload) for payload in subscriber.wait_for(2, TOPIC))

    assert (first["event_type"], last["event_type"], last["end_reason"]) == ("start", "end", "quiet")
    assert first["event_id"] == last["event_id"]
    assert (first["seq"], last["seq"]) == (1, 2)
    assert first["start"] == last["start"] == "2026-01-01T12:00:01.000Z"
    assert last["end"] == "2026-01-01T12:00:03.000Z"
    assert last["model"] == {
        "name": judge.model.card.name,
        "version": judge.model.card.version,
        "sha256": judge.model.sha256,
    }
    assert not last["replayed"]


def test_the_level_of_a_minute_reaches_the_broker(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """Calibrated as the configuration says; it waits for the broker as what goes first where there is no room."""
    broker = make_broker()
    start_ns = round(START.timestamp() * 1e9)
    level = IntervalLevel(start_ns, start_ns + 60 * 10**9, LevelStatistics(0.5, 0.5, 0.5, 0.5, 0.5), 0, 0)
    config = config_for(broker, tmp_path, audio={"full_scale_db": 120.0})

    with Outbox(config, judge, environment={}, stop=Stop()) as outbox:
        outbox.tell_level(level, Reckoning("boot", 0.0, synced=True))
        (waiting,) = outbox.spool.oldest(1)
        subscriber = subscribe(broker.start().options())
        (payload,) = subscriber.wait_for(1, "urbansound/node-07/street/level")

    message = json.loads(payload)
    assert (message["laeq_db"], message["calibrated"], message["seq"]) == (120.0, True, 1)
    assert KINDS[waiting.rank] == "level"


def test_a_node_says_what_it_is_and_when_it_is_there(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """`status` and `info` are retained: who comes later sees `online` and the labels, and in the end `offline`."""
    with Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop()) as outbox:
        outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
        wait_until(lambda: outbox.publisher.delivery().connected, "a connection")
        watching = subscribe(broker.options())
        (status,) = watching.wait_for(1, STATUS)
        info = json.loads(watching.wait_for(1, INFO)[-1])
        wait_until(lambda: b"sample_rate_hz" in watching.payloads(INFO)[-1], "the rate, once it is known")
        later = subscribe(broker.options())
        assert later.wait_for(1, STATUS)[0] == b"online"
        assert later.wait_for(1, INFO)[0] == watching.payloads(INFO)[-1]

    assert status == b"online"
    assert set(info["labels"]) == set(judge.rules)
    assert json.loads(watching.payloads(INFO)[-1])["sources"] == [{"id": "street", "sample_rate_hz": RATE_HZ}]
    later = subscribe(broker.options())
    assert later.wait_for(1, STATUS) == [b"offline"]
    assert all(message.retain for message in later.messages)


def test_the_password_is_in_no_message(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """Neither the password nor a hash that depends on it is published: the nodes of a fleet have one hash."""
    subscriber = subscribe(broker.options())
    for node, password in (("node-07", "first secret"), ("node-08", "second secret")):
        mqtt = {"host": broker.host, "port": broker.port, "username": node, "password": password}
        config = config_for(broker, tmp_path, mqtt=mqtt, node={"id": node})
        with Outbox(config, judge, environment={}, stop=Stop()):
            subscriber.wait_for(1, f"urbansound/{node}/info")

    one, other = (json.loads(subscriber.payloads(f"urbansound/{node}/info")[0]) for node in ("node-07", "node-08"))
    assert one["config_sha256"] == other["config_sha256"]
    assert not any(b"secret" in message.payload for message in subscriber.messages)


def test_a_changed_node_says_so_on_the_same_connection(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """Other rules are another `config_sha256` and other labels, told at once, and no `offline`."""
    subscriber = subscribe(broker.options())
    config = config_for(broker, tmp_path)
    with Outbox(config, judge, environment={}, stop=Stop()) as outbox:
        subscriber.wait_for(1, INFO)
        changed = config_for(broker, tmp_path, events={"labels": ["siren"]})

        outbox.change(changed, judge.under(changed), broker_options(changed.mqtt, {}))

        before, after = (json.loads(payload) for payload in subscriber.wait_for(2, INFO))
        assert b"offline" not in subscriber.payloads(STATUS)

    assert before["config_sha256"] != after["config_sha256"]
    assert after["labels"] == ["siren"]
    assert set(before) == set(after)


def test_home_assistant_is_told_of_a_node_that_wants_it(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """Retained; with other labels anew; and taken back when the running agent is told not to any more."""
    topic = "homeassistant/device/urbansound_node-07/config"
    subscriber = subscribe(broker.options())
    mqtt = {"host": broker.host, "port": broker.port}
    wants = {"mqtt": mqtt | {"home_assistant": {"enabled": True}}}
    with Outbox(config_for(broker, tmp_path, **wants), judge, environment={}, stop=Stop()) as outbox:
        subscriber.wait_for(1, topic)
        for config in (
            config_for(broker, tmp_path, events={"labels": ["siren"]}, **wants),
            config_for(broker, tmp_path),
        ):
            outbox.change(config, judge.under(config), broker_options(config.mqtt, {}))
            subscriber.wait_for(2, topic)
        all_labels, one_label, nothing = subscriber.wait_for(3, topic)

    told = [
        {name for name, entity in json.loads(payload)["components"].items() if len(entity) > 1}
        for payload in (all_labels, one_label)
    ]
    assert {name for name in told[0] if name.startswith("hears_")} == {f"hears_{label}" for label in judge.rules}
    assert {name for name in told[1] if name.startswith("hears_")} == {"hears_siren"}
    assert nothing == b""
    later = subscribe(broker.options())
    later.wait_for(1, STATUS)
    assert later.payloads(topic) == []


def test_who_does_not_want_home_assistant_says_nothing_there(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """By default there is no topic but the node's own."""
    subscriber = subscribe(broker.options())
    with Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop()):
        subscriber.wait_for(1, INFO)

    assert all(message.topic.startswith("urbansound/node-07/") for message in subscriber.messages)


def test_an_event_that_a_crash_left_open_is_ended_at_the_next_start(
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Subscribers see no siren that never ends: it is `interrupted`, at the time up to which it was last told."""
    broker, judge = make_broker(), Judge(Config())
    crashed = Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop())
    tell = crashed.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
    tell(event("start", id=0))
    tell(event("start", id=1, onset_s=4.0))
    tell(event("end", id=0))
    crashed.spool.close()  # as the end of the process does

    broker.start()
    subscriber = subscribe(broker.options())
    with caplog.at_level(logging.WARNING), Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop()):
        payloads = [json.loads(payload) for payload in subscriber.wait_for(4, TOPIC)]

    assert [(payload["seq"], payload["event_type"]) for payload in payloads] == [
        (1, "start"),
        (2, "start"),
        (3, "end"),
        (4, "end"),
    ]
    end = payloads[-1]
    assert (end["event_id"], end["end_reason"]) == (payloads[1]["event_id"], "interrupted")
    assert end["end"] == "2026-01-01T12:00:06.500Z"  # `heard_until` of the start
    assert caplog.text.count("event.interrupted") == 1
    with Outbox(config_for(broker, tmp_path), judge, environment={}, stop=Stop()) as again:
        assert len(again.spool) == 0, "it is ended once"


def test_an_open_event_that_cannot_be_read_any_more_does_not_keep_the_agent_from_starting(
    judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit flipped in what was last told about it: it is said and forgotten, and the others get their end."""
    config = Config.model_validate({"spool": {"path": str(tmp_path / "spool.sqlite")}})
    crashed = Outbox(config, judge, environment={}, stop=Stop())
    crashed.spool.append(TOPIC, lambda _: b'{"schema":"urbanso\xf5nd.event/1"', event_id="damaged")
    crashed.teller(RATE_HZ, recording_timeline(START, RATE_HZ))(event("start"))
    crashed.spool.close()

    restarted = Outbox(config, judge, environment={}, stop=Stop())

    assert "event.unreadable event_id=damaged" in caplog.text
    assert restarted.spool.open_events() == []
    assert json.loads(restarted.spool.oldest(10)[-1].payload)["end_reason"] == "interrupted"
    restarted.spool.close()


def test_a_replay_does_not_push_the_sensor_from_the_broker(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path
) -> None:
    """On a node that is listening, recordings can be published as well: own spool, own connection."""
    subscriber = subscribe(broker.options())
    config = config_for(broker, tmp_path)
    with Outbox(config, judge, environment={}, stop=Stop()) as live:
        wait_until(lambda: live.publisher.delivery().delivered == 0 and live.publisher.delivery().connected, "a broker")
        with Outbox(config, judge, environment={}, stop=Stop(), replayed=True) as replayed:
            tell_live = live.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
            tell_replayed = replayed.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
            for tell in (tell_live, tell_replayed, tell_live, tell_replayed):
                state = "start" if len(subscriber.payloads(TOPIC)) < 2 else "end"
                n_before = len(subscriber.payloads(TOPIC))
                tell(event(state))
                subscriber.wait_for(n_before + 1, TOPIC)
            assert live.publisher.delivery().last_error is None
            assert replayed.publisher.delivery().last_error is None

    assert [json.loads(payload)["replayed"] for payload in subscriber.payloads(TOPIC)] == [False, True, False, True]
    assert "already connected" not in broker.log.read_text()


def test_a_publisher_that_cannot_go_on_stops_the_agent(
    broker: Broker, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails under the publisher, whoever listens is told to stop, and leaves with the reason."""
    stop = Stop()

    def fail(*_: object) -> None:
        raise DatabaseError("spool: the disk is full")

    with (  # noqa: PT012  what is raised is raised on leaving
        pytest.raises(DatabaseError, match="the disk is full"),
        Outbox(config_for(broker, tmp_path), judge, environment={}, stop=stop) as outbox,
    ):
        monkeypatch.setattr(outbox.spool, "forget", fail)
        outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))(event("start"))
        assert stop.wait(DEADLINE_S)


def test_the_first_reason_to_leave_is_the_one_that_is_told(
    broker: Broker, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the agent leaves for another reason, a publisher that failed as well does not hide it."""
    stop = Stop()

    def fail(*_: object) -> None:
        raise DatabaseError("spool: the disk is full")

    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        Outbox(config_for(broker, tmp_path), judge, environment={}, stop=stop) as outbox,
    ):
        monkeypatch.setattr(outbox.spool, "forget", fail)
        outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))(event("start"))
        assert stop.wait(DEADLINE_S)
        raise ZeroDivisionError


# The clock, and what waits


class Clocks:
    """A machine that can be started anew, with a wall clock that can be set."""

    def __init__(self) -> None:
        self.boot = "first boot"
        self.monotonic_s = 1000.0
        self.wall_s = START.timestamp()
        self.synced: bool | None = False

    def pass_by(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds

    def reboot(self) -> None:
        self.boot, self.monotonic_s = "second boot", 10.0

    def clock(self) -> WallClock:
        return WallClock(
            wall=lambda: self.wall_s, monotonic=lambda: self.monotonic_s, synced=lambda: self.synced, boot=self.boot
        )


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def tell_of(outbox: Outbox, clocks: Clocks, *states: str) -> None:
    """An event that began a second ago."""
    timeline = Timeline(RATE_HZ, outbox.clock)
    timeline.anchor(2 * RATE_HZ, clocks.monotonic_s)
    tell = outbox.teller(RATE_HZ, timeline.utc_of, timeline.look)
    for state in states:
        tell(event(state, onset_s=1.0))


@pytest.mark.parametrize("then", ["goes on", "restarts", "reboots"])
def test_what_waited_is_dated_rightly_once_the_clock_is_set(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, tmp_path: Path, clocks: Clocks, then: str
) -> None:
    """A node that starts in 1970 without a network: when both come, its events arrive with the time of the sound.

    It makes no difference whether the agent goes on meanwhile, or is started anew, or the machine is, after the time
    was known.
    """
    broker, judge = make_broker(), Judge(Config())
    clocks.wall_s = 0.0
    config = config_for(broker, tmp_path)
    with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()) as outbox:
        tell_of(outbox, clocks, "start", "end")
        clocks.pass_by(600.0)
        clocks.wall_s, clocks.synced = START.timestamp() + 600.0, True
        if then == "reboots":
            wait_until(lambda: outbox.spool.boots, "the next attempt to connect, which looks at the clock")
        if then == "goes on":
            subscriber = subscribe(broker.start().options())
            payloads = subscriber.wait_for(2, TOPIC)
        else:
            outbox.publisher.stop(0.0)
    if then != "goes on":
        clocks.pass_by(60.0)
        if then == "reboots":
            clocks.reboot()
        subscriber = subscribe(broker.start().options())
        with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()):
            payloads = subscriber.wait_for(2, TOPIC)

    start, end = (json.loads(payload) for payload in payloads[:2])
    assert (start["start"], end["start"]) == ("2026-01-01T11:59:59.000Z", "2026-01-01T11:59:59.000Z")
    assert end["end"] == "2026-01-01T12:00:01.000Z"
    assert start["quality"] == end["quality"] == {"time_synced": True}
    assert start["queued_s"] == end["queued_s"] == (600.0 if then == "goes on" else 660.0)


def test_what_is_told_before_the_clock_is_set_is_sent_at_once_and_says_so(
    broker: Broker, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path, clocks: Clocks
) -> None:
    """An alarm does not wait for a time server. If the clock is set before the sound ends, the end has the time."""
    subscriber = subscribe(broker.options())
    clocks.wall_s = 0.0
    config = config_for(broker, tmp_path)
    with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()) as outbox:
        timeline = Timeline(RATE_HZ, outbox.clock)
        timeline.anchor(2 * RATE_HZ, clocks.monotonic_s)
        tell = outbox.teller(RATE_HZ, timeline.utc_of, timeline.look)
        tell(event("start"))
        subscriber.wait_for(1, TOPIC)
        clocks.wall_s, clocks.synced = START.timestamp(), True
        tell(event("end"))
        start, end = (json.loads(payload) for payload in subscriber.wait_for(2, TOPIC))

    assert (start["start"], start["quality"]) == ("1969-12-31T23:59:59.000Z", {"time_synced": False})
    assert (end["start"], end["quality"]) == ("2026-01-01T11:59:59.000Z", {"time_synced": True})
    assert end["event_id"] == start["event_id"]
    assert end["duration_s"] == 2.0
    assert start["queued_s"] == end["queued_s"] == 0.0


def test_what_is_from_a_boot_without_a_clock_says_so_for_ever(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path, clocks: Clocks
) -> None:
    """Nobody knows when that boot was: neither the time of the sound nor how long it waited is made up."""
    broker = make_broker()
    config = config_for(broker, tmp_path)
    crashed = Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock())
    tell_of(crashed, clocks, "start", "end")
    crashed.spool.close()
    clocks.reboot()
    clocks.wall_s, clocks.synced = START.timestamp() + 3600.0, True

    subscriber = subscribe(broker.start().options())
    with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()):
        start, end = (json.loads(payload) for payload in subscriber.wait_for(2, TOPIC))

    for message in (start, end):
        assert message["start"] == "2026-01-01T11:59:59.000Z"
        assert message["quality"] == {"time_synced": False}
        assert "queued_s" not in message


def test_what_is_too_old_when_the_broker_comes_back_is_dropped_and_counted(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path, clocks: Clocks
) -> None:
    """`spool.max_age_days`: after a winter without a network the last days arrive, not the first."""
    broker = make_broker()
    clocks.synced = True
    config = config_for(broker, tmp_path, spool={"path": str(tmp_path / "spool.sqlite"), "max_age_days": 2.0})
    with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()) as outbox:
        for _ in range(4):
            tell_of(outbox, clocks, "start", "end")
            clocks.pass_by(86_400.0 - 1.0)
        wait_until(lambda: len(outbox.spool) <= 6, "what is too old to go without a broker, too")
        subscriber = subscribe(broker.start().options())
        seqs = [json.loads(payload)["seq"] for payload in subscriber.wait_for(4, TOPIC)]
        wait_until(lambda: len(outbox.spool) == 0, "the spool to be empty")

    assert seqs == [5, 6, 7, 8]
    assert outbox.spool.discarded["event"] == 4


def test_by_a_clock_that_is_not_set_nothing_is_too_old(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, judge: Judge, tmp_path: Path, clocks: Clocks
) -> None:
    """A machine that starts a year ahead, or in 1970, throws nothing away and makes up no time of waiting."""
    broker = make_broker()
    config = config_for(broker, tmp_path)
    clocks.synced = True
    crashed = Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock())
    crashed.spool.note_boot(clocks.boot, crashed.clock.reckon().utc_zero_s)
    tell_of(crashed, clocks, "start", "end")
    crashed.spool.close()
    clocks.reboot()
    clocks.pass_by(365 * 86_400.0)
    clocks.synced = False

    subscriber = subscribe(broker.start().options())
    with Outbox(config, judge, environment={}, stop=Stop(), clock=clocks.clock()) as outbox:
        start, end = (json.loads(payload) for payload in subscriber.wait_for(2, TOPIC))

    assert outbox.spool.dropped == 0
    assert "queued_s" not in start
    assert "queued_s" not in end


@pytest.mark.parametrize(("order", "seqs"), [("oldest", [1, 2, 3, 4]), ("live", [3, 4, 1, 2])])
def test_what_goes_first_is_as_configured(
    broker: Broker,
    subscribe: SubscriberFactory,
    judge: Judge,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    seqs: list[int],
) -> None:
    """`spool.order`: what is told once the broker is there follows what has waited, or overtakes it."""
    announcement = Outbox._announcement

    def once_connected(outbox: Outbox) -> Sequence[Publication]:
        if outbox.spool.last_seq == 2:
            tell(event("start", id=2))
            tell(event("start", id=3))
        return announcement(outbox)

    monkeypatch.setattr(Outbox, "_announcement", once_connected)
    subscriber = subscribe(broker.options())
    config = config_for(broker, tmp_path, spool={"path": str(tmp_path / "spool.sqlite"), "order": order})
    outbox = Outbox(config, judge, environment={}, stop=Stop())
    tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
    tell(event("start", id=0))
    tell(event("start", id=1))

    with outbox:
        told = [json.loads(payload)["seq"] for payload in subscriber.wait_for(4, TOPIC)]

    assert told == seqs


def test_an_update_is_no_reason_to_sync(judge: Judge, tmp_path: Path) -> None:
    """Starts and ends are events to the spool, what is between them are updates."""
    config = Config.model_validate({"spool": {"path": str(tmp_path / "spool.sqlite")}})
    outbox = Outbox(config, judge, environment={}, stop=Stop())
    tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
    for state in ("start", "update", "end"):
        tell(event(state))

    assert [KINDS[message.rank] for message in outbox.spool.oldest(10)] == ["event", "update", "event"]
    outbox.spool.close()


def test_a_password_file_that_changes_is_read_at_the_next_connection(
    make_broker: BrokerFactory, judge: Judge, tmp_path: Path
) -> None:
    """From the configuration to the broker: whoever replaces the file need not restart the agent."""
    file = tmp_path / "password"
    file.write_text("old\n")
    broker = make_broker(passwords={"node-07": "new"}).start()
    mqtt = {"host": broker.host, "port": broker.port, "username": "node-07", "password_file": str(file)}
    with Outbox(config_for(broker, tmp_path, mqtt=mqtt), judge, environment={}, stop=Stop()) as outbox:
        wait_until(lambda: "wrong password" in (outbox.publisher.delivery().last_error or ""), "the refusal")
        file.write_text("new\n")
        wait_until(lambda: outbox.publisher.delivery().connected, "a connection")
