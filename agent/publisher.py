"""Drains the spool to the broker, in order; a message is forgotten only after its acknowledgement.

In: the spool. Out: MQTT messages of QoS 1, each at least once. One thread, `publisher`, does all of it; the agent
hears and spools with or without a broker.

What is on its way when the connection is lost is sent again, from the oldest. By option, what is new since the
connection came goes first, and what had waited follows. Password and TLS files are read anew for each connection.

What the broker refuses (an ACL) stays in the spool: its topic waits and is tried again, the other topics go on. MQTT
3.1.1 cannot tell a refusal, the message is lost there; that is why 5 is the default.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from agent.broker import (
    RETRY_MAX_S,
    RETRY_MIN_S,
    BrokerOptions,
    Connection,
    Publication,
    Waker,
    is_topic,
    retry_delays,
)
from agent.errors import AgentError, BrokerError, ConfigError
from agent.shelf import Kind, SpooledMessage
from agent.spool import Spool

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 20  # mosquitto's own default for what it takes at once

_STEADY_S = 5.0  # a connection that held this long was a good one: after it, the first wait is short again
_SAVE_S = 5.0  # while there is no broker, the spool is asked so often whether the disk takes something again
_GOODBYE_S = 2.0
_JOIN_GRACE_S = 1.0  # no more: a thread that waits for an unreachable host ends with the process
_PATIENCE = 2.0  # keepalives in which something that is on its way must be acknowledged
_NEVER = float("inf")
_ANNOUNCEMENT = 0  # in place of a `seq`, which is 1 or more


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the publisher is doing.

    Attributes:
        connected: whether there is a broker.
        delivered: messages acknowledged since the start.
        queued: messages in the spool.
        in_flight: of these, on their way.
        refused: refusals by the broker since the start; a message that is refused twice counts twice.
        unsaved: of the queued, in memory alone, since the disk takes nothing.
        dropped: messages discarded since the spool was made: no room, too old, or damaged.
        discarded: the same by kind.
        last_error: why there is no broker, why it refused, or why the disk takes nothing; None while all is well.
    """

    connected: bool
    delivered: int
    queued: int
    in_flight: int
    refused: int
    unsaved: int
    dropped: int
    discarded: Mapping[Kind, int]
    last_error: str | None


class Publisher:
    """The publisher thread.

    Args:
        spool: what to send. Stays open when the publisher stops.
        options: gives the broker, and who we are; called before each connection, so that passwords and certificates
            can change.
        client_id: the node's id.
        finish: completes a message as it is sent; None where it cannot be sent. Called on the publisher thread.
        live_first: whether what is new goes before what waited when the connection came.
        announce: what to say first on each connection (`status` online, `info`); called on the publisher thread.
        farewell: the last will, and the last message of a clean stop (`status` offline); None for neither.
        on_failure: called on the publisher thread when it cannot go on: the spool fails.
        max_in_flight: messages on their way at once.
        retry_min_s: the first wait after the broker was away or refused.
        retry_max_s: the longest.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        options: Callable[[], BrokerOptions],
        client_id: str,
        finish: Callable[[SpooledMessage], bytes | None] = lambda message: message.payload,
        live_first: bool = False,
        announce: Callable[[], Sequence[Publication]],
        farewell: Publication | None,
        on_failure: Callable[[Exception], None],
        max_in_flight: int = MAX_IN_FLIGHT,
        retry_min_s: float = RETRY_MIN_S,
        retry_max_s: float = RETRY_MAX_S,
    ) -> None:
        self._spool = spool
        self._options = options
        self._client_id = client_id
        self._announce = announce
        self._farewell = farewell
        self._on_failure = on_failure
        self._new_delays = partial(retry_delays, retry_min_s, retry_max_s)
        self._new_deliveries = partial(
            _Deliveries, spool, finish, max_in_flight, self._new_delays, live_first=live_first
        )
        self._deliveries = self._new_deliveries()
        self._waker = Waker()
        self._stop_asked = threading.Event()
        self._stop_at = _NEVER
        self._news = threading.Event()
        self._remarks: deque[Publication] = deque(maxlen=1)
        self._wanted = options  # other than `_options` while there is a move to make
        self._move_by = _NEVER
        self._hurry = threading.Event()  # ends a wait for the broker
        self._connected = False
        self._connected_at = _NEVER
        self._delivered = 0
        self._in_flight = 0
        self._refused = 0
        self._last_error: str | None = None
        # A daemon: looking up a host name without a network may take longer than anyone wants to wait at exit.
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._spool.on_append(self._waker.wake)
        self._thread.start()

    def announce_again(self) -> None:
        """Say the announcement anew: something in it has changed."""
        self._news.set()
        self._waker.wake()

    def say(self, publication: Publication) -> None:
        """Say something that is not worth keeping: at once, or on the next connection if nothing newer has come."""
        self._remarks.append(publication)
        self._waker.wake()

    def connect_anew(self, options: Callable[[], BrokerOptions]) -> None:
        """Say goodbye, and go on with another broker, or as somebody else. What was not acknowledged is sent there."""
        self._move_by = time.monotonic() + _GOODBYE_S
        self._wanted = options
        self._hurry.set()
        self._waker.wake()

    def stop(self, drain_s: float) -> bool:
        """Deliver what waits, say goodbye, disconnect.

        Args:
            drain_s: at most this long for what waits; the rest stays in the spool.

        Returns:
            whether all was delivered.
        """
        self._stop_at = time.monotonic() + drain_s
        self._stop_asked.set()
        self._hurry.set()
        self._waker.wake()
        self._thread.join(drain_s + _GOODBYE_S + _JOIN_GRACE_S)
        if not self._thread.is_alive():
            self._spool.on_append(None)
            self._waker.close()
        return len(self._spool) == 0

    def delivery(self) -> Delivery:
        """How it is doing; may be asked from any thread."""
        return Delivery(
            connected=self._connected,
            delivered=self._delivered,
            queued=len(self._spool),
            in_flight=self._in_flight,
            refused=self._refused,
            unsaved=self._spool.unsaved,
            dropped=self._spool.dropped,
            discarded=self._spool.discarded,
            last_error=self._last_error or self._spool.trouble,
        )

    def _run(self) -> None:
        try:
            self._keep_connected()
        except AgentError as error:
            self._on_failure(error)
        except Exception as error:
            self._on_failure(error)
            raise

    def _keep_connected(self) -> None:
        delays = self._new_delays()
        has_tried = self._farewell is None  # since the stop, if only to say it: the broker may have kept `online`
        while (
            not self._stop_asked.is_set()
            or not has_tried
            or (len(self._spool) > 0 and time.monotonic() < self._stop_at)
        ):
            has_tried = has_tried or self._stop_asked.is_set()
            self._connected_at = _NEVER
            self._hurry.clear()
            if self._is_to_move:
                self._options = self._wanted
                self._deliveries, delays = self._new_deliveries(), self._new_delays()  # it may refuse other things
            try:
                options = self._options()
                self._serve(Connection(options, self._client_id, will=self._farewell, waker=self._waker), options)
            except (BrokerError, ConfigError) as error:  # a file that is just being replaced is there at the next try
                if time.monotonic() - self._connected_at >= _STEADY_S:
                    delays = self._new_delays()
                delay_s = next(delays)
                self._last_error = str(error)
                log.warning("mqtt.away retry_s=%.1f queued=%d reason=%s", delay_s, len(self._spool), error)
                self._pause(delay_s)
            else:
                if not self._is_to_move:
                    return

    @property
    def _is_to_move(self) -> bool:
        return self._wanted is not self._options

    def _pause(self, delay_s: float) -> None:
        until = time.monotonic() + delay_s
        if not self._stop_asked.is_set():
            while (remaining_s := until - time.monotonic()) > 0.0:
                self._spool.save()
                if self._hurry.wait(min(remaining_s, _SAVE_S)):
                    break  # whoever asks to stop gets one more attempt at once
        elif len(self._spool) > 0:
            time.sleep(max(0.0, min(delay_s, self._stop_at - time.monotonic())))

    def _serve(self, connection: Connection, options: BrokerOptions) -> None:
        """Deliver until asked to stop or to move, then say goodbye."""
        log.info("mqtt.connected broker=%s:%d queued=%d", options.host, options.port, len(self._spool))
        deliveries = self._deliveries
        deliveries.begin(connection, options)
        self._connected, self._connected_at = True, time.monotonic()
        self._last_error = deliveries.refusal
        self._news.set()
        try:
            while True:
                if self._news.is_set() and deliveries.room:
                    self._news.clear()
                    deliveries.announce(self._announce())
                if self._remarks and deliveries.room:
                    deliveries.announce([self._remarks.popleft()])
                self._spool.save()
                is_last = self._is_to_move
                if not is_last:
                    deliveries.send()
                self._in_flight = deliveries.in_flight
                remaining_s = min(self._stop_at, self._move_by if is_last else _NEVER) - time.monotonic()
                if (is_last or self._stop_asked.is_set()) and (remaining_s <= 0.0 or self._in_flight == 0):
                    break
                delivered, refused = deliveries.settle(remaining_s)
                self._delivered += delivered
                self._refused += refused
                self._last_error = deliveries.refusal
            self._say_goodbye(connection, deliveries)
        finally:
            self._connected, self._in_flight = False, 0
            connection.drop()

    def _say_goodbye(self, connection: Connection, deliveries: "_Deliveries") -> None:
        if self._farewell is not None:
            until = time.monotonic() + _GOODBYE_S
            while not deliveries.room and time.monotonic() < until:
                self._delivered += deliveries.settle(until - time.monotonic())[0]
            ticket = connection.publish(self._farewell)
            while (remaining_s := until - time.monotonic()) > 0.0:
                acknowledgements, _ = connection.wait(remaining_s)
                if any(one.ticket == ticket for one in acknowledgements):
                    break
        connection.close()


class _Deliveries:
    """What is on its way, and what the broker refuses. Used by the publisher thread.

    Args:
        spool: what to send.
        finish: completes a message as it is sent.
        max_in_flight: messages on their way at once.
        new_delays: how long a refused topic waits, time after time.
        live_first: whether what is new goes first.
    """

    def __init__(
        self,
        spool: Spool,
        finish: Callable[[SpooledMessage], bytes | None],
        max_in_flight: int,
        new_delays: Callable[[], Iterator[float]],
        *,
        live_first: bool,
    ) -> None:
        self._spool = spool
        self._finish = finish
        self._live_first = live_first
        self._max_in_flight = max_in_flight
        self._new_delays = new_delays
        self._delays = new_delays()
        self._refused_topics: set[str] = set()
        self._retry_at = _NEVER  # until then the refused topics are held back, over connections
        self.refusal: str | None = None

    def begin(self, connection: Connection, options: BrokerOptions) -> None:
        """Start at the oldest: what was on its way on the last connection is still in the spool."""
        self._connection, self._options = connection, options
        self._moved_at = time.monotonic()
        self._window = min(self._max_in_flight, connection.receive_maximum)
        self._sent: dict[int, tuple[int, str]] = {}  # ticket: seq, topic
        self._to_announce: deque[Publication] = deque()
        # Two runs through the spool: what waited until now, and what is new. Each goes on after the last it has sent.
        self._waited_until = self._spool.last_seq if self._live_first else 0
        self._start_over()
        if self._refused_topics:  # perhaps the refusal cost the last connection: the others go first on this one
            self._retry_at = time.monotonic() + next(self._delays)

    @property
    def in_flight(self) -> int:
        """Messages on their way, announcements too."""
        return len(self._sent)

    @property
    def room(self) -> int:
        """How many more may be on their way: strict brokers hang up on whoever has more there than they allow."""
        return max(0, self._window - len(self._sent))

    def announce(self, publications: Sequence[Publication]) -> None:
        """Send what is not in the spool, before what is."""
        self._to_announce.extend(publications)

    def send(self) -> None:
        """Send the next messages, as many as the window lets."""
        while self._to_announce and self.room:
            publication = self._to_announce.popleft()
            self._sent[self._connection.publish(publication)] = (_ANNOUNCEMENT, publication.topic)
        if time.monotonic() >= self._retry_at:
            if self._sent:
                return  # first hear about these: starting over would send them twice
            self._start_over()
            self._retry_at = _NEVER
        messages = self._next()
        if not (messages or self._sent) and self._retry_at == _NEVER and len(self._spool) > 0:
            # A file that could not be read before, and can be now, holds what is older than all that was sent.
            self._start_over()
            messages = self._next()
        unsendable = []
        for message in messages:
            payload = self._finish(message) if is_topic(message.topic) else None
            if payload is None:
                unsendable.append(message.seq)
            else:
                ticket = self._connection.publish(Publication(message.topic, payload))
                self._sent[ticket] = (message.seq, message.topic)
        if unsendable:  # damaged: they would cost each connection, and hold up all others
            log.error("spool.unsendable seqs=%s", unsendable)
            self._spool.discard(unsendable)

    def _start_over(self) -> None:
        self._sent_of_waiting, self._sent_of_new = 0, self._waited_until

    def _next(self) -> list[SpooledMessage]:
        """What is to be sent now, as much as there is room for."""
        held_back = self._refused_topics if self._retry_at < _NEVER else ()
        room, newest = self.room, self._spool.last_seq
        new = self._spool.oldest(room, after=self._sent_of_new, but_not_to=held_back)
        if new:
            self._sent_of_new = new[-1].seq
        elif room:  # what is held back may be a million messages, and is not to be looked through at each turn
            self._sent_of_new = max(self._sent_of_new, newest)
        if self._sent_of_waiting >= self._waited_until or len(new) == room:
            return new
        waiting = self._spool.oldest(
            room - len(new), after=self._sent_of_waiting, until=self._waited_until, but_not_to=held_back
        )
        self._sent_of_waiting = waiting[-1].seq if waiting else self._waited_until
        return new + waiting

    def settle(self, timeout_s: float) -> tuple[int, int]:
        """Wait for acknowledgements, and forget what they are for.

        Returns:
            how many messages were delivered, and how many refused.

        Raises:
            BrokerError: the connection is lost, or nothing of what is on its way has been acknowledged for too long.
        """
        until_retry_s = self._retry_at - time.monotonic()
        acknowledgements, _ = self._connection.wait(min(timeout_s, until_retry_s) if until_retry_s > 0.0 else timeout_s)
        patience_s = _PATIENCE * self._options.keepalive_s
        if acknowledgements or not self._sent:
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at >= patience_s:
            raise BrokerError(f"{self._options.name}: has acknowledged nothing for {patience_s:g} s")
        delivered, refused = [], 0
        for acknowledgement in acknowledgements:
            seq, topic = self._sent.pop(acknowledgement.ticket)
            if acknowledgement.refusal is not None:
                refused += 1
                self._hold_back(topic, acknowledgement.refusal)
                continue
            self._accept(topic)
            if seq != _ANNOUNCEMENT:
                delivered.append(seq)
        self._spool.forget(delivered)
        return len(delivered), refused

    def _hold_back(self, topic: str, refusal: str) -> None:
        self._refused_topics.add(topic)
        self.refusal = f"broker refuses {topic} ({refusal})"
        if self._retry_at == _NEVER:
            delay_s = next(self._delays)
            self._retry_at = time.monotonic() + delay_s
            log.error("mqtt.refused topic=%s reason=%s retry_s=%.1f", topic, refusal, delay_s)

    def _accept(self, topic: str) -> None:
        if topic in self._refused_topics:
            self._refused_topics.remove(topic)
            if not self._refused_topics:
                self.refusal = None
                self._delays = self._new_delays()
