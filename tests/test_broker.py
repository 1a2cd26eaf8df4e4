"""One connection to a real mosquitto, and watching."""

import logging
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pytest

from agent.broker import (
    Acknowledgement,
    BrokerOptions,
    Connection,
    Publication,
    Received,
    Waker,
    retry_delays,
    watch,
)
from agent.credentials import tls_context
from agent.errors import BrokerError, ConfigError
from tests.broker import (
    DEADLINE_S,
    Broker,
    BrokerFactory,
    Certificates,
    SubscriberFactory,
    free_port,
    half_a_broker,
    wait_until,
)

STATUS = "urbansound/node-07/status"
EVENT = "urbansound/node-07/street/event"
WILL = Publication(STATUS, b"offline", retain=True)
Protocol = Literal["5", "3.1.1"]
CONNACK, SUBACK, DISCONNECT = 0x20, 0x90, 0xE0
WELCOME = bytes([CONNACK, 3, 0, 0, 0])


@contextmanager
def answering(packets: bytes, tls: Certificates | None = None) -> Iterator[int]:
    """A port where one client is answered with these bytes at once, whatever it says.

    It is hung up on then; with TLS, only when it has said something more.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if tls is not None:
        context.load_cert_chain(tls.server, tls.server_key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            if tls is not None:
                client = context.wrap_socket(client, server_side=True)
            with client:
                client.recv(1000)
                client.sendall(packets)
                if tls is not None:
                    client.recv(1000)

        answers = threading.Thread(target=answer)
        answers.start()
        yield server.getsockname()[1]
        answers.join(DEADLINE_S)


def acknowledged(connection: Connection, count: int) -> list[Acknowledgement]:
    """The next `count` acknowledgements."""
    answers: list[Acknowledgement] = []
    until = time.monotonic() + DEADLINE_S
    while len(answers) < count and time.monotonic() < until:
        answers += connection.wait(0.5)[0]
    return answers


def wait_for_loss(connection: Connection) -> None:
    """Wait until `wait` raises; fail where it does not."""
    connection.publish(Publication(EVENT, b""))
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        connection.wait(1.0)
    pytest.fail("the connection was not lost")


@pytest.fixture
def guarded(make_broker: BrokerFactory) -> Broker:
    """A broker that asks for a password, and lets node-07 write only its own topics."""
    return make_broker(
        passwords={"node-07": "correct horse", "fleet": "battery staple"},
        acl=f"user node-07\ntopic write {STATUS}\ntopic write {EVENT}\nuser fleet\ntopic read #\n",
    ).start()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_message_arrives_and_is_acknowledged(
    broker: Broker, subscribe: SubscriberFactory, protocol: Protocol
) -> None:
    """With either version of MQTT: what is published comes to subscribers, and each ticket is answered once."""
    subscriber = subscribe(broker.options())
    connection = Connection(broker.options(protocol=protocol), "node-07")

    tickets = [connection.publish(Publication(EVENT, b"%d" % number)) for number in range(50)]
    answers = acknowledged(connection, 50)
    connection.close()

    assert answers == [Acknowledgement(ticket, None) for ticket in tickets]
    assert subscriber.wait_for(50, EVENT) == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("asked_each_s", [60, 0])
def test_a_broker_that_sets_its_own_keepalive_is_given_time(asked_each_s: int) -> None:
    """MQTT 5 lets it say how often it is to be asked, 0 for never: nobody takes it for dead before it was."""
    welcome = bytes([CONNACK, 6, 0, 0, 3, 0x13, 0, asked_each_s])
    with half_a_broker(welcome) as port:
        connection = Connection(BrokerOptions(host="127.0.0.1", port=port, keepalive_s=1), "node-07")
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            connection.wait(0.5)
        connection.drop()


def test_nobody_listening_on_the_port_is_said(tmp_path: Path) -> None:
    """The message names host and port and says that the connection was refused."""
    port = free_port()

    with pytest.raises(BrokerError, match=f"^MQTT broker 127.0.0.1:{port}: connection refused$") as caught:
        Connection(BrokerOptions(host="127.0.0.1", port=port), "node-07")

    assert caught.value.exit_code == 69


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 80, ""])
def test_a_host_that_does_not_exist_is_named(host: str) -> None:
    """A typing error in the host name is an unreachable broker like any other, whatever it looks like."""
    with pytest.raises(BrokerError, match=f"^MQTT broker {host}:1883: "):
        Connection(BrokerOptions(host=host, port=1883), "node-07")


def test_something_that_is_not_a_broker_is_said() -> None:
    """A port where something hangs up at once is not taken for a broker."""
    with answering(b"") as port, pytest.raises(BrokerError, match=f":{port}: the connection is lost .* before"):
        Connection(BrokerOptions(host="127.0.0.1", port=port), "node-07")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(
    ("username", "password", "who"),
    [("node-07", "wrong", "user name 'node-07'"), ("nobody", "wrong", "user name 'nobody'"), (None, None, "without")],
)
def test_wrong_credentials_are_said(
    guarded: Broker, protocol: Protocol, username: str | None, password: str | None, who: str
) -> None:
    """A wrong password, an unknown user and a missing one are told apart from an unreachable broker."""
    options = guarded.options(protocol=protocol, username=username, password=password)

    with pytest.raises(BrokerError, match=re.escape(f"MQTT broker 127.0.0.1:{guarded.port}: refuses us, {who}")):
        Connection(options, "node-07")


def test_the_right_password_opens(guarded: Broker) -> None:
    """With user name and password the broker lets us in."""
    Connection(guarded.options(username="node-07", password="correct horse"), "node-07").close()


def test_secrets_are_not_shown(guarded: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the options nor an error nor the log contain the password."""
    caplog.set_level(logging.DEBUG)
    options = guarded.options(username="node-07", password="hunter2")

    with pytest.raises(BrokerError) as caught:
        Connection(options, "node-07")

    assert "hunter2" not in f"{options!r} {options} {caught.value} {caught.value!r} {caplog.text}"


def test_what_an_acl_forbids_is_refused_message_by_message(guarded: Broker) -> None:
    """MQTT 5 tells which message the broker does not take, and why; the others are accepted."""
    connection = Connection(guarded.options(username="node-07", password="correct horse"), "node-07")

    allowed = connection.publish(Publication(EVENT, b"mine"))
    forbidden = connection.publish(Publication("urbansound/node-08/street/event", b"not mine"))
    answers = acknowledged(connection, 2)
    connection.close()

    assert answers == [Acknowledgement(allowed, None), Acknowledgement(forbidden, "Not authorized")]


def test_tls_with_our_authority(
    make_broker: BrokerFactory, certificates: Certificates, subscribe: SubscriberFactory
) -> None:
    """Encrypted, with a certificate that our authority signed: messages arrive."""
    broker = make_broker(certificates=certificates).start()
    subscriber = subscribe(broker.options())
    connection = Connection(broker.options(), "node-07")

    connection.publish(Publication(EVENT, b"x" * 100_000))
    connection.publish(Publication(EVENT, b"small"))
    answers = acknowledged(connection, 2)
    connection.close()

    assert [answer.refusal for answer in answers] == [None, None]
    assert subscriber.wait_for(2, EVENT) == [b"x" * 100_000, b"small"]


def test_messages_that_came_in_one_piece_are_all_had_at_once(certificates: Certificates) -> None:
    """Of several messages in one TLS record, none waits in the decrypted rest until the next comes."""
    message = bytes([0x30, 5, 0, 1]) + b"a" + bytes([0]) + b"x"
    with answering(WELCOME + message * 5, certificates) as port:
        tls = tls_context(certificates.ca, None, None)
        connection = Connection(BrokerOptions(host="127.0.0.1", port=port, tls=tls, keepalive_s=600), "node-07")
        began = time.monotonic()

        received = [one for _ in range(5) for one in connection.wait(DEADLINE_S)[1]]

        assert received == [Received("a", b"x", retained=False)] * 5
        assert time.monotonic() - began < DEADLINE_S / 2
        connection.close()


def test_an_authority_that_did_not_sign_is_refused(
    make_broker: BrokerFactory, certificates: Certificates, other_certificates: Certificates
) -> None:
    """With the wrong CA file we do not talk to the broker, and say why."""
    broker = make_broker(certificates=certificates).start()
    options = broker.options(tls=tls_context(other_certificates.ca, None, None))

    with pytest.raises(BrokerError, match=f"127.0.0.1:{broker.port}: its certificate is not trusted \\(.+\\)"):
        Connection(options, "node-07")


def test_a_certificate_for_another_host_is_refused(make_broker: BrokerFactory, certificates: Certificates) -> None:
    """A certificate that is trusted but names another host is not enough."""
    broker = make_broker(certificates=certificates).start()

    # 127.0.0.2 reaches nothing here, so the name is checked on a connection that is made by hand.
    context = tls_context(certificates.ca, None, None)
    with (
        socket.create_connection((broker.host, broker.port), timeout=DEADLINE_S) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        context.wrap_socket(plain, server_hostname="broker.example")


def test_a_client_certificate_says_who_we_are(make_broker: BrokerFactory, certificates: Certificates) -> None:
    """Where the broker asks for a certificate, ours opens; its name is our user name."""
    broker = make_broker(
        certificates=certificates, require_certificate=True, acl=f"user node-07\ntopic write {EVENT}\n"
    ).start()
    tls = tls_context(certificates.ca, certificates.client, certificates.client_key)
    connection = Connection(broker.options(tls=tls), "node-07")

    ticket = connection.publish(Publication(EVENT, b"mine"))

    assert acknowledged(connection, 1) == [Acknowledgement(ticket, None)]
    connection.close()


def test_a_missing_client_certificate_is_said(make_broker: BrokerFactory, certificates: Certificates) -> None:
    """Where the broker asks for a certificate and we have none, the reason says so."""
    broker = make_broker(certificates=certificates, require_certificate=True).start()

    with pytest.raises(BrokerError, match=f"127.0.0.1:{broker.port}: .*perhaps it expects a client certificate"):
        Connection(broker.options(), "node-07")


def test_tls_to_a_broker_that_speaks_plainly_is_said(broker: Broker, certificates: Certificates) -> None:
    """TLS switched on against a plain port is told from a wrong certificate."""
    with pytest.raises(BrokerError, match="TLS fails, expected a broker that speaks TLS on this port"):
        Connection(broker.options(tls=tls_context(certificates.ca, None, None)), "node-07")


def test_plain_speech_to_a_broker_that_wants_tls_is_said(
    make_broker: BrokerFactory, certificates: Certificates
) -> None:
    """TLS forgotten in the configuration ends with a reason, not with silence."""
    broker = make_broker(certificates=certificates).start()

    with pytest.raises(BrokerError, match=f"127.0.0.1:{broker.port}: .*perhaps it expects TLS"):
        Connection(broker.options(tls=None), "node-07")


def test_a_killed_broker_is_noticed_at_once(broker: Broker) -> None:
    """When the broker goes, waiting ends with a reason."""
    connection = Connection(broker.options(), "node-07")

    broker.kill()

    with pytest.raises(BrokerError, match=f"127.0.0.1:{broker.port}: the connection is lost"):
        wait_for_loss(connection)


@pytest.mark.parametrize("busy", [False, True])
def test_a_frozen_broker_is_noticed_within_its_keepalive(broker: Broker, busy: bool) -> None:
    """A broker that hangs without closing the connection is given up within one keepalive, publishing or not."""
    keepalive_s = 4
    connection = Connection(broker.options(keepalive_s=keepalive_s), "node-07")
    broker.freeze()
    began = time.monotonic()

    def wait_and_publish() -> None:
        while True:
            connection.wait(DEADLINE_S)
            if busy:
                connection.publish(Publication(EVENT, b"on and on"))

    with pytest.raises(BrokerError, match="has not answered for 4 s"):
        wait_and_publish()

    assert time.monotonic() - began < 1.5 * keepalive_s  # paho by itself takes 2 keepalives


def test_an_idle_connection_stays(broker: Broker) -> None:
    """A quiet street does not cost the connection: the keepalive is kept while nothing is published."""
    connection = Connection(broker.options(keepalive_s=2), "node-07")

    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        connection.wait(until - time.monotonic())

    ticket = connection.publish(Publication(EVENT, b"still here"))
    assert acknowledged(connection, 1) == [Acknowledgement(ticket, None)]
    connection.close()


def test_a_broker_that_hangs_before_it_lets_us_in_is_said_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that takes connections and says nothing is not taken for one that expects TLS."""
    monkeypatch.setattr("agent.broker.CONNECT_TIMEOUT_S", 1.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(BrokerError, match="takes the connection and does not answer within 1 s"),
    ):
        Connection(BrokerOptions(host="127.0.0.1", port=silent.getsockname()[1]), "node-07")


def test_a_broker_may_take_its_time_to_let_us_in(broker: Broker) -> None:
    """One that a whole city comes back to at once is slow: a short keepalive does not keep us out for good."""
    broker.freeze()
    thaw = threading.Timer(2.0, broker.thaw)
    thaw.start()

    connection = Connection(broker.options(keepalive_s=3), "node-07")

    ticket = connection.publish(Publication(EVENT, b"let in"))
    assert acknowledged(connection, 1) == [Acknowledgement(ticket, None)]
    connection.close()
    thaw.join()


def test_a_broker_is_not_blamed_for_our_own_absence(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow card that holds us up for longer than the keepalive does not look like a dead broker."""
    connection = Connection(broker.options(keepalive_s=60), "node-07")
    away_s = 100.0
    monkeypatch.setattr("agent.broker.time.monotonic", lambda now=time.monotonic: now() + away_s)

    connection.wait(0.0)  # does not raise

    ticket = connection.publish(Publication(EVENT, b"back again"))
    assert acknowledged(connection, 1) == [Acknowledgement(ticket, None)]
    connection.close()


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        (bytes([CONNACK, 3, 0, 0x84, 0]), "does not speak MQTT 5, try another mqtt.protocol"),
        (bytes([CONNACK, 3, 0, 0x97, 0]), "refuses us (Quota exceeded)"),
        (WELCOME + bytes([DISCONNECT, 2, 0x8E, 0]), "another client has connected with our node id"),
        (WELCOME + bytes([DISCONNECT, 2, 0x8B, 0]), "sent us away (Server shutting down)"),
        (WELCOME + b"\xff\xff\xff\xff\xff", "the connection is lost"),
        (WELCOME + bytes([0x40, 2, 0xFF, 0xFF]), "the connection is lost"),
        (WELCOME + bytes([0x30, 4, 0, 1, 0xFF, 0]), "the connection is lost"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "before it let us in"),
    ],
)
def test_what_a_broker_says_on_refusal_is_passed_on(packets: bytes, why: str) -> None:
    """Refusals that mosquitto does not make, and nonsense, byte by byte as MQTT 5 defines them: each has its reason."""
    with answering(packets) as port, pytest.raises(BrokerError, match=re.escape(why)):
        wait_for_loss(Connection(BrokerOptions(host="127.0.0.1", port=port), "node-07"))


def test_nonsense_from_a_broker_is_a_lost_connection() -> None:
    """Whatever bytes come, before or after the welcome, waiting ends with a reason and never with a crash."""
    for seed in range(300):
        chance = random.Random(seed)
        body = chance.randbytes(chance.randrange(12))
        packet = bytes([chance.randrange(256), len(body)]) + body + chance.randbytes(chance.randrange(5))
        with answering(WELCOME * (seed % 3 > 0) + packet) as port, pytest.raises(BrokerError):
            wait_for_loss(Connection(BrokerOptions(host="127.0.0.1", port=port), "node-07"))


def test_a_second_node_with_our_name_takes_the_connection(broker: Broker) -> None:
    """Of two nodes cloned from one card, only one is connected at a time; the other notices."""
    first = Connection(broker.options(), "node-07")
    second = Connection(broker.options(), "node-07")

    with pytest.raises(BrokerError, match=r"the connection is lost|another client"):
        wait_for_loss(first)
    second.close()


def test_a_broker_that_takes_few_at_once_says_so() -> None:
    """The broker's limit on unacknowledged messages is known to whoever publishes."""
    with answering(bytes([CONNACK, 6, 0, 0, 3, 0x21, 0, 5])) as port:
        connection = Connection(BrokerOptions(host="127.0.0.1", port=port), "node-07")

    assert connection.receive_maximum == 5
    connection.drop()


def test_the_will_is_published_when_we_drop_and_not_when_we_close(broker: Broker, subscribe: SubscriberFactory) -> None:
    """A crash makes the broker say `offline`; an orderly end leaves the last word to us."""
    subscriber = subscribe(broker.options())

    orderly = Connection(broker.options(), "node-07", will=WILL)
    orderly.publish(Publication(STATUS, b"the last word"))
    acknowledged(orderly, 1)
    orderly.close()
    crashed = Connection(broker.options(), "node-07", will=WILL)
    crashed.drop()

    assert subscriber.wait_for(2, STATUS) == [b"the last word", b"offline"]


def test_a_waker_ends_a_wait(broker: Broker) -> None:
    """A new message does not wait for the network: another thread can end the wait, before it or during it."""
    waker = Waker()
    connection = Connection(broker.options(keepalive_s=60), "node-07", waker=waker)
    began = time.monotonic()

    for _ in range(100_000):  # more than the channel holds
        waker.wake()
    connection.wait(DEADLINE_S)
    waking = threading.Timer(0.05, waker.wake)
    waking.start()
    connection.wait(DEADLINE_S)

    assert time.monotonic() - began < DEADLINE_S / 2
    waking.join()
    connection.close()
    waker.close()
    waker.wake()


def test_watching_shows_messages_as_they_come(broker: Broker) -> None:
    """Retained messages come first and say that they are; then what is published, in order."""
    node = Connection(broker.options(), "node-07")
    node.publish(Publication(STATUS, b"online", retain=True))
    acknowledged(node, 1)

    def publish() -> None:
        for number in range(3):
            node.publish(Publication(EVENT, b"%d" % number))

    messages = list(islice(watch(broker.options(), "urbansound/#", on_subscribed=publish), 4))
    node.close()

    assert messages == [
        Received(STATUS, b"online", retained=True),
        *(Received(EVENT, b"%d" % number, retained=False) for number in range(3)),
    ]


def test_several_topics_can_be_watched(broker: Broker) -> None:
    """With several filters, what fits any of them comes, and nothing else."""
    node = Connection(broker.options(), "node-07")

    def publish() -> None:
        for topic in ("a/event", "b/event", "c/health"):
            node.publish(Publication(topic, topic.encode()))

    messages = list(islice(watch(broker.options(), "a/+", "c/#", on_subscribed=publish), 2))
    node.close()

    assert [message.topic for message in messages] == ["a/event", "c/health"]


def test_watching_survives_a_restart_of_the_broker(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that comes back is watched again; the pause is said in the log."""
    subscriptions: list[int] = []

    def act() -> None:
        subscriptions.append(len(subscriptions))
        if len(subscriptions) == 1:
            broker.restart()
            return
        node = Connection(broker.options(), "node-07")
        node.publish(Publication(EVENT, b"after"))
        acknowledged(node, 1)
        node.close()

    assert next(watch(broker.options(), "#", on_subscribed=act)) == Received(EVENT, b"after", retained=False)
    assert "mqtt.away" in caplog.text


def test_watching_without_a_broker_fails_at_once() -> None:
    """`urbansound watch` with a wrong host or port ends with the reason, and the code for an unavailable broker."""
    with pytest.raises(BrokerError, match="connection refused") as caught:
        next(watch(BrokerOptions(host="127.0.0.1", port=free_port()), "#"))

    assert caught.value.exit_code == 69


def test_watching_with_a_wrong_password_fails_at_once(guarded: Broker) -> None:
    """So does a wrong password."""
    with pytest.raises(BrokerError, match="refuses us, user name 'fleet'"):
        next(watch(guarded.options(username="fleet", password="wrong"), "#"))


def test_watching_what_the_broker_does_not_let_us_see_fails_at_once() -> None:
    """So does a subscription that an ACL forbids."""
    refuses = WELCOME + bytes([SUBACK, 4, 0, 1, 0, 0x87])
    with answering(refuses) as port, pytest.raises(BrokerError, match="refuses the subscription to # \\(Not auth"):
        next(watch(BrokerOptions(host="127.0.0.1", port=port), "#"))


def test_watching_is_over_when_nobody_looks_any_more(broker: Broker) -> None:
    """Leaving the loop closes the connection."""
    messages = watch(broker.options(), "#")
    node = Connection(broker.options(), "node-07")
    node.publish(Publication(EVENT, b"one", retain=True))
    acknowledged(node, 1)

    assert isinstance(messages, Generator)
    next(messages)
    messages.close()

    wait_until(lambda: broker.log.read_text().count("disconnected") >= 1, "the broker to see us go")
    node.close()


def test_a_password_needs_a_user_name() -> None:
    """A password that would not be used is a configuration error."""
    with pytest.raises(ConfigError, match=r"mqtt\.username"):
        BrokerOptions(host="localhost", port=1883, password="secret")


def test_waits_double_up_to_a_limit_with_jitter() -> None:
    """The first new attempt comes within 2 s, later ones ever more rarely, at least each minute; no two nodes agree."""
    runs = [list(islice(retry_delays(), 12)) for _ in range(50)]

    for run in runs:
        assert 1.0 <= run[0] <= 2.0
        assert all(1.0 <= delay_s <= 60.0 for delay_s in run)
        assert all(delay_s >= 30.0 for delay_s in run[6:])
    assert len({run[-1] for run in runs}) == len(runs)


def test_options_can_be_compared_and_changed(broker: Broker) -> None:
    """Options are plain values."""
    assert replace(broker.options(), keepalive_s=30) == broker.options(keepalive_s=30)
