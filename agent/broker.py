"""The MQTT broker, one connection at a time. Owner of paho-mqtt.

In: messages to publish. Out: what the broker acknowledged, or what it sends us. A `Connection` lives from connect to
the first loss and is then thrown away, so that no message waits in two queues; who uses it (the publisher thread, or
`watch` on the main thread) opens the next. All of paho runs on that one thread: its callbacks only note what came.
"""

import logging
import math
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Literal, NoReturn

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.errors import BrokerError, ConfigError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0

_PINGS = 2  # in a keepalive: a broker that is asked half-way has the other half to answer
_CHECKS = 8  # in a keepalive: so much of it late is early enough
_QOS = 1
_LONGEST_TOPIC_BYTES = 65_535

_BAD_CREDENTIALS = 134
_NOT_AUTHORIZED = 135
_PROTOCOL_NOT_SUPPORTED = 132
_KEEP_ALIVE_TIMEOUT = 141
_SESSION_TAKEN_OVER = 142


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Where the broker is and who we are.

    Attributes:
        host: name or address.
        port: TCP port.
        protocol: MQTT 5 tells when a message is refused; 3.1.1 does not.
        username: None for anonymous.
        password: never shown.
        tls: None for plain TCP.
        tls_sha256: of the files that `tls` was made of, by which options are told apart.
        keepalive_s: when nothing has come from the broker for so long, though it was asked half-way, it is dead. It
            hears half of this, and takes us for dead after one and a half times that.

    Raises:
        ConfigError: a password without a user name.
    """

    host: str
    port: int
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    tls_sha256: str | None = None
    keepalive_s: int = 30

    def __post_init__(self) -> None:
        if self.password is not None and self.username is None:
            raise ConfigError("mqtt.password is set and mqtt.username is not, expected both")

    @property
    def name(self) -> str:
        """What errors and logs call it."""
        return f"MQTT broker {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Publication:
    """A message for the broker, QoS 1.

    Attributes:
        topic: where it goes.
        payload: what it says.
        retain: whether the broker keeps it for those who come later.
    """

    topic: str
    payload: bytes
    retain: bool = False


def is_topic(text: str) -> bool:
    """Whether messages can be published to it; brokers hang up on whoever tries what is none. MQTT 5, 4.7."""
    return 0 < len(text.encode("utf-8", "replace")) <= _LONGEST_TOPIC_BYTES and not set("+#\0") & set(text)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The broker's answer to a message.

    Attributes:
        ticket: what `publish` returned.
        refusal: why the broker does not take it; None where it does.
    """

    ticket: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker.

    Attributes:
        topic: where it was published.
        payload: what it says.
        retained: whether it is from before we came.
    """

    topic: str
    payload: bytes
    retained: bool


def retry_delays(min_s: float = RETRY_MIN_S, max_s: float = RETRY_MAX_S) -> Iterator[float]:
    """How long to wait before each next attempt, in seconds: doubling, with jitter, from `min_s` to `max_s`.

    The jitter keeps a city's sensors from coming back to their broker all in the same second.
    """
    delay_s = min_s
    while True:
        yield uniform(delay_s, min(max_s, delay_s * 2))
        delay_s = max(min_s, min(max_s / 2, delay_s * 2))


class Waker:
    """Ends the `wait` of a connection from another thread."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """End the present wait, or else the next."""
        with suppress(OSError):  # full: it will wake; closed: nobody waits any more
            self._sender.send(b"!")

    def fileno(self) -> int:
        """For `select`."""
        return self._receiver.fileno()

    def clear(self) -> None:
        """Take note of all wakes so far."""
        with suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._receiver.close()
        self._sender.close()


class Connection:
    """One connection, open from the start; used by one thread.

    Args:
        options: the broker, and who we are.
        client_id: our name; the broker drops an older connection of the same name. Empty: the broker gives one.
        will: what the broker publishes when it loses us.
        waker: ends `wait` early.

    Raises:
        BrokerError: it cannot be reached, or refuses us. The message names it, and says why.
    """

    def __init__(
        self,
        options: BrokerOptions,
        client_id: str,
        *,
        will: Publication | None = None,
        waker: Waker | None = None,
    ) -> None:
        self._options = options
        self._waker = waker
        self._welcome: ReasonCode | None = None
        self._lost: str | None = None
        self._heard_at = self._left_at = time.monotonic()
        self._patience_s = math.inf  # until it has let us in, for which it has its own time
        self._socket_trouble: str | None = None
        self._acknowledgements: list[Acknowledgement] = []
        self._subscription: list[ReasonCode] | None = None
        self._received: list[Received] = []
        self.receive_maximum = 65_535
        mqtt5 = options.protocol == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if mqtt5 else True,
            protocol=paho.MQTTv5 if mqtt5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._client.max_inflight_messages_set(0)  # who uses us bounds it
        self._client.username_pw_set(options.username, options.password)
        if options.tls is not None:
            self._client.tls_set_context(options.tls)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=_QOS, retain=will.retain)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_log = self._on_log
        self._connect()

    def publish(self, publication: Publication) -> int:
        """Send a message.

        Returns:
            a ticket, by which its acknowledgement is known.
        """
        return self._client.publish(publication.topic, publication.payload, qos=_QOS, retain=publication.retain).mid

    def subscribe(self, topic_filter: str) -> None:
        """Ask for messages, and wait until the broker agrees.

        Raises:
            BrokerError: it refuses, does not answer, or is lost.
        """
        self._subscription = None
        self._client.subscribe(topic_filter, qos=_QOS)
        until = time.monotonic() + CONNECT_TIMEOUT_S
        while self._subscription is None:
            if time.monotonic() > until:
                self._abandon(f"did not answer to a subscription within {CONNECT_TIMEOUT_S:g} s")
            self._step(until - time.monotonic())
        if self._subscription[0].is_failure:
            self._abandon(f"refuses the subscription to {topic_filter} ({self._subscription[0]})")

    def wait(self, timeout_s: float) -> tuple[list[Acknowledgement], list[Received]]:
        """Wait until something comes, the waker wakes, or `timeout_s` has passed.

        Returns:
            what was acknowledged and what was received since the last call; perhaps nothing.

        Raises:
            BrokerError: the connection is lost. The message says why.
        """
        if not (self._acknowledgements or self._received):
            self._step(timeout_s)
        acknowledgements, self._acknowledgements = self._acknowledgements, []
        received, self._received = self._received, []
        return acknowledgements, received

    def close(self) -> None:
        """Say goodbye; the broker does not publish the will. Harmless when lost."""
        self._client.disconnect()
        until = time.monotonic() + 1.0
        while self._client.want_write() and self._client.socket() is not None and time.monotonic() < until:
            select.select([], [self._client.socket()], [], until - time.monotonic())
            self._client.loop_write()
        self.drop()

    def drop(self) -> None:
        """Leave without a word; the broker publishes the will. Harmless when lost or closed."""
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    def _connect(self) -> None:
        options = self._options
        try:
            self._client.connect(options.host, options.port, max(1, options.keepalive_s // _PINGS))
        except (OSError, ValueError) as error:
            raise BrokerError(f"{options.name}: {_why_unreachable(error, options)}") from error
        self._heard_at = self._left_at = time.monotonic()
        until = self._heard_at + CONNECT_TIMEOUT_S
        while self._welcome is None:
            if self._lost is not None:
                missing = "TLS" if options.tls is None else "a client certificate"
                self._abandon(f"{self._lost} before it let us in; perhaps it expects {missing}")
            if time.monotonic() > until:
                self._abandon(f"takes the connection and does not answer within {CONNECT_TIMEOUT_S:g} s")
            self._step(until - time.monotonic())
        if self._welcome.is_failure:
            self._abandon(self._why_refused(self._welcome))

    def _step(self, timeout_s: float) -> None:
        """Wait for the socket or the waker, and let paho read, write, and check the keepalive."""
        connection = self._client.socket()
        if self._lost is not None or connection is None:
            self._abandon(self._lost or "the connection is lost")
        self._heard_at += time.monotonic() - self._left_at  # while we were elsewhere nobody asked the broker
        readers: list[Any] = [connection] if self._waker is None else [connection, self._waker]
        writers = [connection] if self._client.want_write() else []
        pending = _has_pending(connection)
        patience_s = self._heard_at + self._patience_s - time.monotonic()
        waiting_s = 0.0 if pending else min(timeout_s, self._options.keepalive_s / _CHECKS, patience_s)
        readable, writable, _ = select.select(readers, writers, [], max(0.0, waiting_s))
        if self._waker is not None and self._waker in readable:
            self._waker.clear()
        if pending or connection in readable:
            self._heard_at = time.monotonic()
            self._client.loop_read()
        elif time.monotonic() - self._heard_at >= self._patience_s:
            self._abandon(self._silence)
        if connection in writable:
            self._client.loop_write()
        if self._welcome is not None:  # paho would hang up on whoever takes half a keepalive to let us in
            self._client.loop_misc()
        self._left_at = time.monotonic()

    @property
    def _silence(self) -> str:
        return f"has not answered for {self._patience_s:g} s"

    def _abandon(self, why: str) -> NoReturn:
        self.drop()
        raise BrokerError(f"{self._options.name}: {why}")

    def _why_refused(self, reason: ReasonCode) -> str:
        if reason.value in (_BAD_CREDENTIALS, _NOT_AUTHORIZED):
            who = "without a user name" if self._options.username is None else f"user name {self._options.username!r}"
            return f"refuses us, {who}: wrong password, or not allowed ({reason})"
        if reason.value == _PROTOCOL_NOT_SUPPORTED:
            return f"does not speak MQTT {self._options.protocol}, try another mqtt.protocol ({reason})"
        return f"refuses us ({reason})"

    # Callbacks run inside _step, on our own thread. They only note what came, so that nothing can go wrong in them.

    def _on_connect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, properties: object
    ) -> None:
        self._welcome = reason
        self._patience_s = self._options.keepalive_s
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        # Where the broker says how often it is to be asked, paho follows; 0 is never.
        asked_each_s = getattr(properties, "ServerKeepAlive", None)
        if asked_each_s is not None:
            self._patience_s = max(self._patience_s, _PINGS * asked_each_s) if asked_each_s else math.inf

    def _on_disconnect(
        self, _client: object, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server and reason.value == _SESSION_TAKEN_OVER:
            self._lost = "another client has connected with our node id, expected each node to have its own"
        elif flags.is_disconnect_packet_from_server:
            self._lost = f"sent us away ({reason})"
        elif reason.value == _KEEP_ALIVE_TIMEOUT:
            self._lost = self._silence
        else:
            self._lost = f"the connection is lost ({self._socket_trouble or 'closed by the other side'})"

    def _on_publish(self, _client: object, _data: object, ticket: int, reason: ReasonCode, _properties: object) -> None:
        self._acknowledgements.append(Acknowledgement(ticket, str(reason) if reason.is_failure else None))

    def _on_subscribe(
        self, _client: object, _data: object, _ticket: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        self._subscription = reasons

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with suppress(UnicodeDecodeError):  # not a topic by the rules of MQTT: nobody can have asked for it
            self._received.append(Received(message.topic, bytes(message.payload), bool(message.retain)))

    def _on_log(self, _client: object, _data: object, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._socket_trouble = text.removeprefix("failed to receive on socket: ")


def _why_unreachable(error: OSError | ValueError, options: BrokerOptions) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError | ConnectionResetError) and options.tls is not None:
        return f"TLS fails, expected a broker that speaks TLS on this port ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return f"not a host name ({error})"


def _has_pending(connection: Any) -> bool:  # noqa: ANN401  a socket, TLS or not
    """Whether TLS has bytes decrypted that `select` does not know of."""
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0


def watch(
    options: BrokerOptions, *topic_filters: str, on_subscribed: Callable[[], None] = lambda: None
) -> Iterator[Received]:
    """Messages as they come, for ever. Messages that are published while the connection is lost are missed.

    Args:
        options: the broker, and who we are.
        topic_filters: with MQTT's `+` and `#`; they should not overlap.
        on_subscribed: called when the broker has agreed: what is published from now on comes.

    Raises:
        BrokerError: it cannot be reached, refuses us or the subscription. Once it has agreed, a lost connection is
            said in the log and opened again.
    """
    delays: Iterator[float] | None = None
    while True:
        try:
            connection = Connection(options, client_id="")
            try:
                for topic_filter in topic_filters:
                    connection.subscribe(topic_filter)
                delays = retry_delays()
                on_subscribed()
                while True:
                    _, received = connection.wait(float(options.keepalive_s))
                    yield from received
            finally:
                connection.close()
        except BrokerError as error:
            if delays is None:
                raise
            delay_s = next(delays)
            log.warning("mqtt.away retry_s=%.1f reason=%s", delay_s, error)
            time.sleep(delay_s)
