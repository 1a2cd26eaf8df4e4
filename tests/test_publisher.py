"""Draining a real spool to a real broker."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol
from unittest.mock import Mock

import pytest

from agent.broker import BrokerOptions, Publication
from agent.credentials import read_password, tls_context
from agent.database import Database
from agent.errors import DatabaseError, DatabaseUnwritableError
from agent.publisher import Publisher
from agent.shelf import SpooledMessage
from agent.spool import Spool
from tests.broker import (
    DEADLINE_S,
    HOST,
    Broker,
    BrokerFactory,
    Certificates,
    SubscriberFactory,
    at_most,
    half_a_broker,
    wait_until,
)

STATUS = "urbansound/node-07/status"
INFO = "urbansound/node-07/info"
EVENT = "urbansound/node-07/street/event"
YARD = "urbansound/node-07/yard/event"
OFFLINE = Publication(STATUS, b"offline", retain=True)
ANNOUNCEMENTS = (Publication(STATUS, b"online", retain=True), Publication(INFO, b"{}", retain=True))


def numbered(seq: int) -> bytes:
    return json.dumps({"seq": seq}).encode()


def fill(spool: Spool, count: int, topic: str = EVENT) -> None:
    for _ in range(count):
        spool.append(topic, numbered)


def first_arrivals(seqs: Sequence[int]) -> list[int]:
    """Each number once, where it came first."""
    return list(dict.fromkeys(seqs))


@pytest.fixture
def both(certificates: Certificates, other_certificates: Certificates) -> tuple[Certificates, Certificates]:
    """Of two authorities that do not know each other."""
    return certificates, other_certificates


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.sqlite", max_messages=10_000) as opened:
        yield opened


class PublisherFactory(Protocol):
    def __call__(
        self,
        options: BrokerOptions | Callable[[], BrokerOptions],
        *,
        announce: Callable[[], Sequence[Publication]] = lambda: ANNOUNCEMENTS,
        retry_min_s: float = 0.02,
        retry_max_s: float = 0.1,
        live_first: bool = False,
        finish: Callable[[SpooledMessage], bytes | None] = lambda message: message.payload,
    ) -> Publisher: ...


@pytest.fixture
def publish(spool: Spool) -> Iterator[PublisherFactory]:
    """Starts publishers that try again quickly; stops them, and fails where one could not go on."""
    publishers: list[Publisher] = []
    failures: list[Exception] = []

    def make(
        options: BrokerOptions | Callable[[], BrokerOptions],
        *,
        announce: Callable[[], Sequence[Publication]] = lambda: ANNOUNCEMENTS,
        retry_min_s: float = 0.02,
        retry_max_s: float = 0.1,
        live_first: bool = False,
        finish: Callable[[SpooledMessage], bytes | None] = lambda message: message.payload,
    ) -> Publisher:
        publisher = Publisher(
            spool=spool,
            options=options if callable(options) else lambda: options,
            client_id="node-07",
            live_first=live_first,
            finish=finish,
            announce=announce,
            farewell=OFFLINE,
            on_failure=failures.append,
            retry_min_s=retry_min_s,
            retry_max_s=retry_max_s,
        )
        publisher.start()
        publishers.append(publisher)
        return publisher

    yield make
    for publisher in publishers:
        publisher.stop(0.0)
    assert failures == []


def test_messages_arrive_in_order_and_are_then_forgotten(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """What waited and what comes later arrives once, in order; then the spool is empty."""
    subscriber = subscribe(broker.options())
    fill(spool, 150)
    publisher = publish(broker.options())
    fill(spool, 150)

    arrived = subscriber.wait_for_seqs(set(range(1, 301)), EVENT)
    wait_until(lambda: len(spool) == 0, "the spool to be empty")

    assert arrived == list(range(1, 301))
    wait_until(lambda: publisher.delivery().delivered == 300, "them to be counted")
    assert publisher.delivery().queued == 0


def test_a_remark_is_said_at_once_and_the_newest_is_said_later(
    make_broker: BrokerFactory, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """Health is not kept: without a broker only the newest waits; with one it goes out as it is said."""
    broker = make_broker()
    publisher = publish(broker.options())
    for number in range(3):
        publisher.say(Publication("urbansound/node-07/health", b"old %d" % number))
    broker.start()
    wait_until(lambda: publisher.delivery().connected, "a connection")
    subscriber = subscribe(broker.options())
    publisher.say(Publication("urbansound/node-07/health", b"new"))

    assert subscriber.wait_for(1, "urbansound/node-07/health")[-1] == b"new"
    assert not {b"old 0", b"old 1"} & set(subscriber.payloads("urbansound/node-07/health"))


@pytest.mark.parametrize("damaged", ["", "urbansound/+/street/event", "a\0b", "#", "x" * 70_000])
def test_what_can_be_no_topic_does_not_hold_up_the_others(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory, damaged: str
) -> None:
    """A row that a bad card has changed would cost every connection: it is said and dropped, the others arrive."""
    subscriber = subscribe(broker.options())
    fill(spool, 2)
    fill(spool, 1, damaged)
    fill(spool, 2)
    publish(broker.options())

    assert subscriber.wait_for_seqs({1, 2, 4, 5}, EVENT) == [1, 2, 4, 5]
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_either_version_of_mqtt_delivers(
    spool: Spool,
    broker: Broker,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    protocol: Literal["5", "3.1.1"],
) -> None:
    """With 3.1.1 as with 5, everything is delivered and forgotten."""
    subscriber = subscribe(broker.options())
    fill(spool, 50)

    publish(broker.options(protocol=protocol))

    assert subscriber.wait_for_seqs(set(range(1, 51)), EVENT) == list(range(1, 51))
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


def test_nothing_is_forgotten_before_the_broker_has_acknowledged(
    spool: Spool, broker: Broker, publish: PublisherFactory
) -> None:
    """A broker that takes the bytes but acknowledges nothing gets at most 20 messages, and all stay in the spool."""
    publisher = publish(broker.options(keepalive_s=60))
    wait_until(lambda: publisher.delivery().connected and publisher.delivery().in_flight == 0, "a connection")
    broker.freeze()

    fill(spool, 100)
    wait_until(lambda: publisher.delivery().in_flight == 20, "messages on their way")

    assert len(spool) == 100
    assert publisher.delivery().delivered == 0
    broker.thaw()
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


def test_the_agent_starts_without_a_broker_and_delivers_when_it_comes(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a broker messages wait on disk and each attempt is said with its reason; later nothing is missing."""
    broker = make_broker()
    publisher = publish(broker.options())
    fill(spool, 30)
    wait_until(lambda: caplog.text.count("mqtt.away") >= 3, "three attempts")
    before = publisher.delivery()

    broker.start()
    wait_until(lambda: publisher.delivery().delivered == 30, "all to be delivered")

    assert (before.connected, before.queued, before.delivered) == (False, 30, 0)
    assert before.last_error == f"MQTT broker 127.0.0.1:{broker.port}: connection refused"
    assert f"reason=MQTT broker 127.0.0.1:{broker.port}: connection refused" in caplog.text
    after = publisher.delivery()
    assert (after.connected, after.delivered, after.last_error) == (True, 30, None)


def test_a_broker_that_is_killed_in_the_middle_costs_nothing(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """A broker killed with -9 amid 200 messages: each arrives, in order of first arrival, once but for repetitions."""
    subscriber = subscribe(broker.options())

    def when_someone_listens() -> Sequence[Publication]:
        subscriber.wait_ready()  # the subscriber must hear the first message after the restart
        return ANNOUNCEMENTS

    publish(broker.options(), announce=when_someone_listens)
    fill(spool, 100)
    wait_until(lambda: len(subscriber.seqs(EVENT)) >= 50, "half of the first hundred")
    broker.kill()
    wait_until(lambda: not subscriber.ready.is_set(), "the subscriber to notice")
    fill(spool, 100)
    assert len(spool) >= 100
    broker.start()

    arrived = subscriber.wait_for_seqs(set(range(1, 201)), EVENT)

    assert first_arrivals(arrived) == list(range(1, 201))
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


def test_what_was_on_its_way_when_the_broker_died_is_sent_again(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """Messages that the dead broker had received and not acknowledged are sent to the next, from the oldest."""
    publisher = publish(broker.options(keepalive_s=60))
    wait_until(lambda: publisher.delivery().connected and publisher.delivery().in_flight == 0, "a connection")
    broker.freeze()
    fill(spool, 50)
    wait_until(lambda: publisher.delivery().in_flight == 20, "messages on their way")

    broker.kill()
    broker.start()
    wait_until(lambda: len(spool) == 0, "the spool to be empty")

    wait_until(lambda: publisher.delivery().delivered == 50, "them to be counted")


def test_a_frozen_broker_is_left_and_found_again(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """A broker that hangs for longer than the keepalive and comes back misses nothing."""
    subscriber = subscribe(broker.options())
    publisher = publish(broker.options(keepalive_s=2))
    wait_until(lambda: publisher.delivery().connected, "a connection")
    broker.freeze()
    fill(spool, 40)
    wait_until(lambda: "has not answered for 2 s" in (publisher.delivery().last_error or ""), "the loss to be noticed")

    broker.thaw()
    arrived = subscriber.wait_for_seqs(set(range(1, 41)), EVENT)

    assert first_arrivals(arrived) == list(range(1, 41))


def test_a_broker_that_answers_and_acknowledges_nothing_is_left(
    spool: Spool, publish: PublisherFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """It lives, as its answers to pings say; but nothing that it is sent is delivered, and another try may help."""
    with half_a_broker(b"\x20\x03\x00\x00\x00") as port:
        publisher = publish(BrokerOptions(host=HOST, port=port, keepalive_s=2), announce=lambda: ())
        wait_until(lambda: publisher.delivery().connected, "a connection")
        fill(spool, 3)

        wait_until(lambda: "has acknowledged nothing for 4 s" in caplog.text, "the broker to be left")
        assert len(spool) == 3
        wait_until(lambda: publisher.delivery().connected, "another try")
        publisher.stop(0.0)


@pytest.mark.parametrize("limit", [1, 20])
def test_no_more_is_on_its_way_than_the_broker_allows(
    spool: Spool, publish: PublisherFactory, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    """Strict brokers hang up on whoever has more there, unacknowledged: `status`, `info` and `health` count as well."""
    fill(spool, 5 * limit)

    def finish(message: SpooledMessage) -> bytes:
        publisher.say(Publication("urbansound/node-07/health", b"{}"))
        return message.payload

    with half_a_broker(bytes([0x20, 6, 0, 0, 3, 0x21, 0, limit]), at_most(limit)) as port:
        publisher = publish(BrokerOptions(host=HOST, port=port, keepalive_s=5), finish=finish)
        wait_until(lambda: len(spool) == 0, "the spool to be empty")
        publisher.stop(0.0)

    assert "sent us away" not in caplog.text


def test_the_node_says_who_it_is_before_anything_else(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """On each connection `online` and `info` come first, and are retained for those who come later."""
    fill(spool, 5)
    subscriber = subscribe(broker.options())
    publish(broker.options())
    subscriber.wait_for(5, EVENT)

    assert [message.topic for message in subscriber.messages[:3]] == [STATUS, INFO, EVENT]
    late = subscribe(broker.options())
    late.wait_for(1, INFO)
    assert {(message.topic, message.payload, message.retain) for message in late.messages} == {
        (STATUS, b"online", True),
        (INFO, b"{}", True),
    }


def test_a_broker_that_forgot_everything_is_told_again(
    broker: Broker, publish: PublisherFactory, subscribe: SubscriberFactory
) -> None:
    """After a restart without memory the broker knows again that the node is online, and what it is."""
    publisher = publish(broker.options())
    wait_until(lambda: publisher.delivery().connected, "a connection")
    broker.kill()
    wait_until(lambda: not publisher.delivery().connected, "the loss to be noticed")
    broker.start()
    wait_until(lambda: publisher.delivery().connected and publisher.delivery().in_flight == 0, "a connection")

    late = subscribe(broker.options())

    assert late.wait_for(1, STATUS) == [b"online"]
    assert late.wait_for(1, INFO) == [b"{}"]


def test_a_changed_announcement_is_told_at_once(
    broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """When the capture rate becomes known, `info` is published anew on the open connection."""
    subscriber = subscribe(broker.options())
    infos = iter([b"no rate yet", b"48000 Hz"])
    publisher = publish(broker.options(), announce=lambda: [Publication(INFO, next(infos), retain=True)])
    subscriber.wait_for(1, INFO)

    publisher.announce_again()

    assert subscriber.wait_for(2, INFO) == [b"no rate yet", b"48000 Hz"]


def test_a_move_to_another_broker_loses_nothing(
    spool: Spool, make_broker: BrokerFactory, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """The old broker is told goodbye, the new one who we are; what the old one has not acknowledged goes to the new."""
    old, new = make_broker().start(), make_broker().start()
    at_old, at_new = subscribe(old.options()), subscribe(new.options())
    publisher = publish(old.options())
    at_old.wait_for(1, INFO)

    fill(spool, 500)
    publisher.connect_anew(new.options)
    fill(spool, 500)
    wait_until(lambda: len(spool) == 0, "the spool to be empty")

    assert at_old.wait_for(2, STATUS) == [b"online", b"offline"]
    assert at_new.wait_for(1, STATUS) == [b"online"]
    at_new.wait_for_seqs({1000}, EVENT)
    seen = at_old.seqs(EVENT) + at_new.seqs(EVENT)
    assert first_arrivals(seen) == list(range(1, 1001))
    assert publisher.delivery().connected


@pytest.mark.parametrize("unreachable", ["nobody", "frozen"])
def test_a_move_does_not_wait_for_a_broker_that_is_away(
    spool: Spool,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    unreachable: str,
) -> None:
    """Who corrects a wrong address need not wait until the next attempt, or until a dead connection is noticed."""
    gone, there = make_broker().start(), make_broker().start()
    subscriber = subscribe(there.options())
    publisher = publish(gone.options(keepalive_s=60), retry_min_s=3600.0, retry_max_s=3600.0)
    wait_until(lambda: publisher.delivery().connected, "a connection")
    gone.freeze() if unreachable == "frozen" else gone.kill()
    if unreachable == "nobody":
        wait_until(lambda: publisher.delivery().last_error is not None, "the loss to be noticed")
    fill(spool, 10)

    publisher.connect_anew(there.options)

    assert subscriber.wait_for_seqs(set(range(1, 11)), EVENT) == list(range(1, 11))
    assert publisher.delivery().last_error is None


def test_what_one_broker_refuses_the_next_is_asked_at_once(
    spool: Spool, broker: Broker, make_broker: BrokerFactory, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """A refusal belongs to the broker that refused."""
    subscriber = subscribe(broker.options())
    strict = make_broker(passwords={"node-07": "secret"}, acl=f"user node-07\ntopic write {STATUS}\n").start()
    fill(spool, 3)
    publisher = publish(strict.options(username="node-07", password="secret"), retry_min_s=3600.0, retry_max_s=3600.0)
    wait_until(lambda: publisher.delivery().refused >= 3, "the refusals")

    publisher.connect_anew(broker.options)

    subscriber.wait_for_seqs({1, 2, 3}, EVENT)
    wait_until(lambda: publisher.delivery().last_error is None, "all to be well")


def test_a_clean_stop_delivers_what_waits_and_says_offline(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """On stop the rest is delivered, then `offline` is the last word."""
    subscriber = subscribe(broker.options())
    publisher = publish(broker.options())
    fill(spool, 100)

    assert publisher.stop(drain_s=DEADLINE_S) is True

    assert subscriber.wait_for(2, STATUS) == [b"online", b"offline"]
    assert subscriber.seqs(EVENT) == list(range(1, 101))
    assert subscriber.messages[-1].topic == STATUS
    assert publisher.delivery().connected is False


def test_a_stop_right_after_the_start_still_delivers(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """A replay that is over before the connection stands waits for its delivery."""
    subscriber = subscribe(broker.options())
    fill(spool, 100)

    assert publish(broker.options()).stop(drain_s=DEADLINE_S) is True

    assert subscriber.wait_for_seqs(set(range(1, 101)), EVENT) == list(range(1, 101))


def test_a_stop_without_a_broker_is_over_in_time_and_keeps_what_waits(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory
) -> None:
    """With the broker away, stopping takes no longer than allowed; the messages are there for the next start."""
    publisher = publish(make_broker().options(), retry_min_s=30.0, retry_max_s=60.0)
    fill(spool, 10)
    began = time.monotonic()

    assert publisher.stop(drain_s=0.5) is False

    assert time.monotonic() - began < 5.0
    assert [message.seq for message in spool.oldest(100)] == list(range(1, 11))


def test_a_stop_does_not_wait_for_a_broker_that_never_answers(spool: Spool, publish: PublisherFactory) -> None:
    """A port where nobody answers, neither yes nor no, does not delay a stop by more than a few seconds."""
    with socket.create_server((HOST, 0)) as silent:
        publisher = publish(BrokerOptions(host=HOST, port=silent.getsockname()[1]))
        fill(spool, 10)
        client, _ = silent.accept()
        began = time.monotonic()

        assert publisher.stop(drain_s=0.2) is False

        assert time.monotonic() - began < 8.0
        client.close()


@pytest.mark.parametrize("waiting", [10, 0])
def test_a_stop_asks_an_absent_broker_once_more(
    spool: Spool,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    caplog: pytest.LogCaptureFixture,
    *,
    waiting: int,
) -> None:
    """Even in the middle of a long wait, stopping tries at once whether the broker has come back.

    Be it only to say `offline`: a broker that was killed, and keeps what is retained, says `online` of us.
    """
    broker = make_broker()
    publisher = publish(broker.options(), retry_min_s=30.0, retry_max_s=60.0)
    fill(spool, waiting)
    wait_until(lambda: "mqtt.away" in caplog.text, "the first attempt to fail")
    broker.start()

    assert publisher.stop(drain_s=DEADLINE_S) is True

    assert subscribe(broker.options()).wait_for(1, STATUS) == [b"offline"]


KILLED = """
import sys, threading
from pathlib import Path
from agent.broker import BrokerOptions, Publication
from agent.publisher import Publisher
from agent.spool import Spool
status = "urbansound/node-07/status"
Publisher(
    spool=Spool(Path(sys.argv[2]), max_messages=1000),
    options=lambda: BrokerOptions(host="127.0.0.1", port=int(sys.argv[1])),
    client_id="node-07",
    announce=lambda: [Publication(status, b"online", retain=True)],
    farewell=Publication(status, b"offline", retain=True),
    on_failure=print,
).start()
threading.Event().wait()
"""


def test_after_kill_9_the_broker_says_offline_for_us(
    broker: Broker, subscribe: SubscriberFactory, tmp_path: Path
) -> None:
    """A node that dies without a word is shown as offline at once, also to those who come later."""
    subscriber = subscribe(broker.options())
    node = subprocess.Popen([sys.executable, "-c", KILLED, str(broker.port), str(tmp_path / "killed.sqlite")])
    try:
        subscriber.wait_for(1, STATUS)
    finally:
        node.kill()
        node.wait(DEADLINE_S)

    assert subscriber.wait_for(2, STATUS) == [b"online", b"offline"]
    assert subscribe(broker.options()).wait_for(1, STATUS) == [b"offline"]


def test_what_the_broker_refuses_is_said_kept_and_delivered_when_allowed(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """An ACL that forbids a topic is an error that is shown; its messages wait, in order, until it is put right."""
    passwords = {"node-07": "secret"}
    status_only = f"user node-07\ntopic write {STATUS}\ntopic write {INFO}\n"
    broker = make_broker(passwords=passwords, acl=status_only).start()
    fill(spool, 60)
    publisher = publish(broker.options(username="node-07", password="secret"))
    wait_until(lambda: caplog.text.count("mqtt.refused") >= 3, "three refusals")
    refused = publisher.delivery()

    broker.change_acl(f"{status_only}topic write {EVENT}\n")
    wait_until(lambda: publisher.delivery().delivered == 60, "all to be delivered")

    assert (refused.connected, refused.queued, refused.delivered) == (True, 60, 0)
    assert refused.refused >= 3
    assert refused.last_error == f"broker refuses {EVENT} (Not authorized)"
    wait_until(lambda: publisher.delivery().last_error is None, "all to be well")


@pytest.mark.parametrize("hangs_up_on_denial", [False, True])
def test_a_refused_topic_does_not_hold_up_the_others(
    spool: Spool,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    hangs_up_on_denial: bool,
) -> None:
    """While one source may not publish, the events of the other arrive in order, even if a refusal costs the line."""
    broker = make_broker(
        passwords={"node-07": "secret", "fleet": "secret"},
        acl=f"user node-07\ntopic write {STATUS}\ntopic write {INFO}\ntopic write {YARD}\nuser fleet\ntopic read #\n",
        hangs_up_on_denial=hangs_up_on_denial,
    ).start()
    subscriber = subscribe(broker.options(username="fleet", password="secret"))
    fill(spool, 100, EVENT)
    fill(spool, 100, YARD)
    yard = list(range(101, 201))

    publisher = publish(broker.options(username="node-07", password="secret"), retry_min_s=0.05, retry_max_s=0.05)
    arrived = subscriber.wait_for_seqs(set(yard), YARD)
    wait_until(lambda: len(spool) == 100, "the yard's messages to be forgotten")

    assert first_arrivals(arrived) == yard
    assert hangs_up_on_denial or arrived == yard
    assert [message.topic for message in spool.oldest(1000)] == [EVENT] * 100
    assert publisher.delivery().refused > 0


def test_what_is_refused_is_not_looked_through_at_each_turn(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After months of refusals that may be half a million messages, and the pipeline waits while the spool is read."""
    status_only = f"user node-07\ntopic write {STATUS}\ntopic write {INFO}\n"
    broker = make_broker(passwords={"node-07": "secret"}, acl=status_only).start()
    fill(spool, 60)
    publisher = publish(broker.options(username="node-07", password="secret"), retry_min_s=60.0, retry_max_s=60.0)
    wait_until(lambda: publisher.delivery().refused > 0, "the refusals")
    oldest = Mock(wraps=spool.oldest)
    monkeypatch.setattr(spool, "oldest", oldest)
    for _ in range(3):
        oldest.reset_mock()
        fill(spool, 1)
        wait_until(lambda: oldest.called, "a look")

    assert oldest.call_args.kwargs["after"] >= 60


def test_a_stop_does_not_wait_for_what_is_refused(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory
) -> None:
    """Messages that the broker will not take do not delay a stop; they stay for the next start."""
    broker = make_broker(passwords={"node-07": "secret"}, acl=f"user node-07\ntopic write {STATUS}\n").start()
    fill(spool, 10)
    publisher = publish(broker.options(username="node-07", password="secret"), retry_min_s=60.0, retry_max_s=60.0)
    wait_until(lambda: publisher.delivery().refused >= 10, "the refusals")
    began = time.monotonic()

    assert publisher.stop(drain_s=DEADLINE_S) is False

    assert time.monotonic() - began < DEADLINE_S / 2
    assert len(spool) == 10


def test_a_wrong_password_is_said_and_tried_again(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the log and in the health, without the password; nothing is lost meanwhile."""
    caplog.set_level(logging.DEBUG)
    broker = make_broker(passwords={"node-07": "right"}).start()
    fill(spool, 3)
    publisher = publish(broker.options(username="node-07", password="hunter2"))

    wait_until(lambda: caplog.text.count("refuses us, user name 'node-07'") >= 2, "two attempts")

    delivery = publisher.delivery()
    assert (delivery.connected, delivery.queued) == (False, 3)
    assert "wrong password, or not allowed" in (delivery.last_error or "")
    assert "hunter2" not in caplog.text


def test_a_wrong_authority_is_said_and_nothing_is_sent(
    spool: Spool,
    make_broker: BrokerFactory,
    publish: PublisherFactory,
    certificates: Certificates,
    other_certificates: Certificates,
) -> None:
    """A broker that cannot prove who it is gets nothing, and the health says why."""
    broker = make_broker(certificates=certificates).start()
    fill(spool, 3)

    publisher = publish(broker.options(tls=tls_context(other_certificates.ca, None, None)))

    wait_until(lambda: "its certificate is not trusted" in (publisher.delivery().last_error or ""), "the reason")
    assert len(spool) == 3


def test_over_tls_everything_arrives(
    spool: Spool,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    certificates: Certificates,
) -> None:
    """Encryption with certificates on both sides changes nothing about the delivery."""
    broker = make_broker(certificates=certificates, require_certificate=True).start()
    tls = tls_context(certificates.ca, certificates.client, certificates.client_key)
    subscriber = subscribe(broker.options(tls=tls))
    fill(spool, 100)

    publish(broker.options(tls=tls))

    assert subscriber.wait_for_seqs(set(range(1, 101)), EVENT) == list(range(1, 101))


def test_a_new_message_is_sent_at_once(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """After a long quiet time an event goes out within a fraction of a second, not at the next keepalive."""
    subscriber = subscribe(broker.options())
    publisher = publish(broker.options(keepalive_s=3600))
    wait_until(lambda: publisher.delivery().connected and publisher.delivery().in_flight == 0, "a connection")
    began = time.monotonic()

    for seq in range(1, 11):
        fill(spool, 1)
        subscriber.wait_for_seqs({seq}, EVENT)

    assert time.monotonic() - began < 5.0


def test_a_spool_that_fails_is_handed_to_the_agent(
    broker: Broker, subscribe: SubscriberFactory, tmp_path: Path
) -> None:
    """When the disk fails, the publisher does not go on quietly: the agent gets the error, the broker says offline."""
    spool = Spool(tmp_path / "fails.sqlite", max_messages=100)
    failed = threading.Event()
    failures: list[Exception] = []

    def on_failure(error: Exception) -> None:
        failures.append(error)
        failed.set()

    subscriber = subscribe(broker.options())
    publisher = Publisher(
        spool=spool,
        options=broker.options,
        client_id="node-07",
        announce=lambda: ANNOUNCEMENTS,
        farewell=OFFLINE,
        on_failure=on_failure,
    )
    publisher.start()
    subscriber.wait_for(1, STATUS)

    spool.close()
    publisher.announce_again()  # wakes it

    assert failed.wait(DEADLINE_S)
    assert isinstance(failures[0], DatabaseError)
    wait_until(lambda: subscriber.payloads(STATUS)[-1] == b"offline", "the broker to say offline")
    publisher.stop(0.0)


def test_what_is_new_goes_first_where_that_is_wanted(
    spool: Spool, make_broker: BrokerFactory, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """With a backlog of hours an event of now is not hours late: it overtakes what waits, which follows in order."""
    broker = make_broker().start()
    subscriber = subscribe(broker.options())
    fill(spool, 500)
    connected = threading.Event()

    def once_something_is_new() -> Sequence[Publication]:
        if not connected.is_set():
            connected.set()
            fill(spool, 10)
        return ANNOUNCEMENTS

    publish(broker.options(), announce=once_something_is_new, live_first=True)
    arrived = subscriber.wait_for_seqs(set(range(1, 511)), EVENT)

    assert arrived == [*range(501, 511), *range(1, 501)]
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


def test_in_the_order_of_the_oldest_nothing_overtakes(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """By default what is new waits for what has waited."""
    subscriber = subscribe(broker.options())
    fill(spool, 500)

    publish(broker.options(), announce=lambda: fill(spool, 10) or ANNOUNCEMENTS)  # type: ignore[func-returns-value]

    assert subscriber.wait_for_seqs(set(range(1, 511)), EVENT) == list(range(1, 511))


def test_a_new_password_is_used_at_the_next_connection(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, tmp_path: Path
) -> None:
    """A password is rotated by replacing its file: no restart, nothing lost; a file that is missing is waited for."""
    file = tmp_path / "password"
    file.write_text("old")

    def options() -> BrokerOptions:
        password = read_password(None, file, {})
        return broker.options(username="node-07", password=password)

    broker = make_broker(passwords={"node-07": "old"}).start()
    publisher = publish(options)
    wait_until(lambda: publisher.delivery().connected, "a connection")
    port = broker.port
    broker.kill()
    broker = make_broker(passwords={"node-07": "new"}, port=port).start()
    fill(spool, 10)
    wait_until(lambda: "wrong password, or not allowed" in (publisher.delivery().last_error or ""), "the refusal")
    file.unlink()
    wait_until(lambda: "password: cannot be read" in (publisher.delivery().last_error or ""), "the file to be missed")

    file.write_text("new")
    wait_until(lambda: len(spool) == 0, "the spool to be empty")

    assert (publisher.delivery().connected, publisher.delivery().last_error) == (True, None)


def test_new_certificates_are_used_at_the_next_connection(
    spool: Spool,
    make_broker: BrokerFactory,
    publish: PublisherFactory,
    both: tuple[Certificates, Certificates],
    tmp_path: Path,
) -> None:
    """A city that changes its authority replaces the files on the node; the agent goes on without a restart."""
    ca, certificate, key = (tmp_path / name for name in ("ca", "certificate", "key"))

    def install(source: Certificates) -> None:
        ca.write_bytes(source.ca.read_bytes())
        key.write_bytes(source.client_key.read_bytes())
        certificate.write_bytes(source.client.read_bytes())

    before, after = both
    install(before)
    broker = make_broker(certificates=before, require_certificate=True).start()
    publisher = publish(lambda: broker.options(tls=tls_context(ca, certificate, key)))
    wait_until(lambda: publisher.delivery().connected, "a connection")
    port = broker.port
    broker.kill()
    broker = make_broker(certificates=after, require_certificate=True, port=port).start()
    fill(spool, 10)
    wait_until(lambda: "its certificate is not trusted" in (publisher.delivery().last_error or ""), "the refusal")

    install(after)
    wait_until(lambda: len(spool) == 0, "the spool to be empty")


def test_a_message_is_completed_when_it_is_sent(
    spool: Spool, broker: Broker, subscribe: SubscriberFactory, publish: PublisherFactory
) -> None:
    """What is sent is what `finish` makes of it at that moment; what it cannot complete is dropped and counted."""
    subscriber = subscribe(broker.options())

    def finish(message: SpooledMessage) -> bytes | None:
        return None if message.seq % 2 else json.dumps({"seq": message.seq, "finished": True}).encode()

    publisher = publish(broker.options(), finish=finish)
    fill(spool, 100)

    assert subscriber.wait_for_seqs(set(range(2, 101, 2)), EVENT) == list(range(2, 101, 2))
    wait_until(lambda: len(spool) == 0, "the spool to be empty")
    assert all(json.loads(payload)["finished"] for payload in subscriber.payloads(EVENT))
    assert publisher.delivery().discarded == {"level": 0, "update": 0, "gap": 0, "event": 50}


def test_while_the_disk_takes_nothing_events_still_arrive(
    spool: Spool,
    broker: Broker,
    subscribe: SubscriberFactory,
    publish: PublisherFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A card that has become read-only does not silence the node: it sends from memory, and says what is wrong."""
    subscriber = subscribe(broker.options())
    publisher = publish(broker.options())
    fill(spool, 5)
    subscriber.wait_for_seqs(set(range(1, 6)), EVENT)
    wait_until(lambda: len(spool) == 0, "the spool to be empty")

    def read_only(*_: object, **__: object) -> None:
        raise DatabaseUnwritableError("spool: attempt to write a readonly database")

    monkeypatch.setattr(Database, "transaction", read_only)
    fill(spool, 30)

    assert subscriber.wait_for_seqs(set(range(1, 36)), EVENT) == list(range(1, 36))
    wait_until(lambda: len(spool) == 0, "the spool to be empty")
    assert publisher.delivery().last_error == "spool: attempt to write a readonly database"
    monkeypatch.undo()
    wait_until(lambda: publisher.delivery().last_error is None, "the disk to be tried again")
    fill(spool, 1)
    assert subscriber.wait_for_seqs({36}, EVENT) == list(range(1, 37))


def test_without_a_broker_a_disk_that_has_room_again_is_used(
    spool: Spool, make_broker: BrokerFactory, publish: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited in memory is written by itself: nothing new must happen for it."""
    monkeypatch.setattr("agent.publisher._SAVE_S", 0.1)
    publish(make_broker().options(), retry_min_s=60.0, retry_max_s=60.0)

    def full(*_: object, **__: object) -> None:
        raise DatabaseUnwritableError("spool: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", full)
        fill(spool, 3)
        assert spool.unsaved == 3

    wait_until(lambda: spool.unsaved == 0, "the messages to be written")
    assert len(spool) == 3


def test_what_could_not_be_read_at_the_start_is_sent_once_it_can(
    broker: Broker, subscribe: SubscriberFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start on a card that takes nothing goes on in memory; what is on it does not wait for another connection."""
    path = tmp_path / "unreadable.sqlite"
    with Spool(path, max_messages=100) as before:
        fill(before, 30)
    subscriber = subscribe(broker.options())

    def unreadable(*_: object, **__: object) -> None:
        raise DatabaseUnwritableError("spool: disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("agent.spool.Shelf", unreadable)
        spool = Spool(path, max_messages=100)
        publisher = Publisher(
            spool=spool,
            options=lambda: broker.options(keepalive_s=2),
            client_id="node-07",
            announce=lambda: (),
            farewell=None,
            on_failure=lambda _: None,
        )
        publisher.start()
        fill(spool, 1)
        wait_until(lambda: subscriber.seqs(EVENT), "what is new")

    arrived = subscriber.wait_for_seqs(set(range(1, 31)), EVENT)

    assert arrived[1:] == list(range(1, 31))
    assert publisher.stop(1.0)
    spool.close()
