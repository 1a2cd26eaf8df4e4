"""What a node says, joined: spool and publisher. What is told here reaches the broker, sooner or later.

In: events, gaps and levels from the pipeline thread, health from the main thread. Out: messages to the broker. Made and
left on the main thread; its publisher has a thread of its own.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self

from agent import __version__, broker, credentials, home_assistant, messages, wire
from agent.app import Judge
from agent.clock import Reckoning, WallClock, utc_now
from agent.config import Config, MqttConfig
from agent.errors import BrokerError, DatabaseUnwritableError
from agent.publisher import Publisher
from agent.shelf import SpooledMessage
from agent.spool import Spool
from agent.stop import Stop
from agent.values import Gap, IntervalLevel, SoundEvent

log = logging.getLogger(__name__)

REPLAY_SPOOL_NAME = "replay-spool.sqlite"  # beside that of the sensor, which may be running
COVERAGE_FILE_NAME = "coverage.sqlite"  # beside that, too
DRAIN_S = 5.0  # at shutdown, for messages that wait for the broker
DISCARD_INTERVAL_S = 3600.0  # between two looks for messages that are too old

_DAY_S = 86_400.0


def broker_options(mqtt: MqttConfig, environment: Mapping[str, str]) -> broker.BrokerOptions:
    """Where the broker is and who we are.

    Raises:
        ConfigError: a file of the password or of TLS cannot be used.
    """
    tls = mqtt.tls
    return broker.BrokerOptions(
        host=mqtt.host,
        port=mqtt.effective_port,
        protocol=mqtt.protocol,
        username=mqtt.username,
        password=credentials.read_password(
            mqtt.password.get_secret_value() if mqtt.password else None, mqtt.password_file, environment
        ),
        tls=credentials.tls_context(tls.ca_file, tls.cert_file, tls.key_file) if tls.enabled else None,
        tls_sha256=credentials.tls_sha256(tls.ca_file, tls.cert_file, tls.key_file) if tls.enabled else None,
        keepalive_s=mqtt.keepalive_s,
    )


def coverage_file(config: Config) -> Path:
    """Where the sensor keeps its hours."""
    return config.spool.path.parent / COVERAGE_FILE_NAME


class Outbox:
    """Spool and publisher of one node, joined: what is told here reaches the broker, sooner or later.

    Args:
        config: the effective configuration.
        judge: names the model.
        environment: for credentials.
        stop: set when the publisher cannot go on; why is raised on leaving.
        replayed: whether recordings are told. They have their own spool and MQTT session, and say nothing about the
            node's state: the sensor may be running.
        clock: what the wall clock is worth; the real one unless given.

    Raises:
        DatabaseError: the outbox cannot be opened; on leaving, it failed meanwhile, or the disk takes nothing and the
            broker has not taken it either.
        BrokerError: on leaving, where recordings were told: not all of it could be delivered.
        ConfigError: the password or the TLS files cannot be used.
    """

    def __init__(
        self,
        config: Config,
        judge: Judge,
        *,
        environment: Mapping[str, str],
        stop: Stop,
        replayed: bool = False,
        clock: WallClock | None = None,
    ) -> None:
        self._site = (config, judge)  # in one, so that the publisher never sees one without the other
        self._stop = stop
        self._replayed = replayed
        self._failure: Exception | None = None
        self._started = utc_now()
        self._topics = wire.Topics(config.mqtt.prefix, config.node.id)
        self._event_ids = messages.EventIds()
        self._sample_rate_hz: int | None = None
        self._liveness: wire.LivenessPart | None = None
        self._discovered: str | None = None  # the topic by which Home Assistant knows the node
        self._environment = environment
        self._options = broker_options(config.mqtt, environment)  # what is wrong with the files is said now
        self.clock = clock or WallClock()
        self._next_discard_s = 0.0
        spool_file = config.spool.path.parent / REPLAY_SPOOL_NAME if replayed else config.spool.path
        self.spool = Spool(
            spool_file,
            config.spool.max_messages,
            config.spool.max_mib << 20,
            boot=self.clock.boot,
            monotonic=self.clock.monotonic,
        )
        self._end_interrupted()
        self.publisher = Publisher(
            spool=self.spool,
            options=partial(self._connecting),
            finish=self._finished,
            live_first=config.spool.order == "live",
            client_id=f"urbansound-{config.node.id}" + ("-replay" if replayed else ""),
            announce=(lambda: ()) if replayed else self._announcement,
            farewell=None if replayed else broker.Publication(self._topics.status, wire.OFFLINE, retain=True),
            on_failure=self._fail,
        )

    def __enter__(self) -> Self:
        self.publisher.start()
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        delivered = self.publisher.stop(DRAIN_S)
        waiting, why = len(self.spool), self.publisher.delivery().last_error or "the broker is still being looked for"
        failure = self._failure  # not one that closing makes: the thread may still be looking up a host
        self.spool.close()
        if self.spool.unsaved and failure is None:
            failure = DatabaseUnwritableError(f"{self.spool.trouble}; {self.spool.unsaved} messages are lost")
        if failure is not None and error is None:
            raise failure
        if not delivered:
            log.warning("spool.waiting messages=%d reason=%s", waiting, why)
            if self._replayed and error is None and not self._stop.is_set():
                raise BrokerError(f"{waiting} messages wait in the spool for the next replay that publishes; {why}")

    def teller(
        self, sample_rate_hz: int, utc_of: Callable[[int], datetime], reckon: Callable[[], Reckoning] | None = None
    ) -> Callable[[SoundEvent], None]:
        """What puts the events of a stream into the spool; call it on the pipeline thread.

        Args:
            sample_rate_hz: of the stream.
            utc_of: when a sample was heard.
            reckon: by what `utc_of` reckons; None for a recording.
        """
        config, judge = self._site
        teller = messages.EventTeller(
            topics=self._topics,
            source=config.node.source,
            model=judge.identity,
            groups=judge.model.card.groups,
            utc_of=utc_of,
            sample_rate_hz=sample_rate_hz,
            reckon=reckon,
            full_scale_db=config.audio.full_scale_db,
            replayed=self._replayed,
            event_ids=self._event_ids,
        )

        def tell(event: SoundEvent) -> None:
            told = teller.tell(event)
            self.spool.append(
                told.topic,
                told.payload,
                kind="update" if told.state == "update" else "event",
                event_id=told.event_id,
                ends=told.ends,
            )

        self._sample_rate_hz = sample_rate_hz
        self.publisher.announce_again()
        return tell

    def tell_gap(self, gap: Gap, reckoning: Reckoning) -> None:
        """Put a gap into the spool, dated by this reckoning; call it on the pipeline thread."""
        config, _ = self._site
        topic, payload = messages.told_gap(gap, topics=self._topics, source=config.node.source, reckoning=reckoning)
        self.spool.append(topic, payload, kind="gap")

    def tell_level(self, level: IntervalLevel, reckoning: Reckoning) -> None:
        """Put the level of an interval into the spool, dated by this reckoning; call it on the pipeline thread."""
        config, _ = self._site
        topic, payload = messages.told_level(
            level,
            topics=self._topics,
            source=config.node.source,
            reckoning=reckoning,
            full_scale_db=config.audio.full_scale_db,
        )
        self.spool.append(topic, payload, kind="level")

    def say_liveness(self, liveness: wire.LivenessPart) -> None:
        """Whether the sensor hears has changed: say it in `info`."""
        self._liveness = liveness
        self.publisher.announce_again()

    def say_health(self, facts: Mapping[str, object]) -> None:
        """Say how the sensor is doing, to whoever hears it now.

        Args:
            facts: the fields of `HealthMessage` that the sensor knows; the outbox adds what it knows.
        """
        config, judge = self._site
        delivery = self.publisher.delivery()
        message = wire.HealthMessage.model_validate(
            {
                "schema": "urbansound.health/1",
                "node": config.node.id,
                "source": config.node.source,
                "time": self.clock.now(),
                "liveness": self._liveness,
                "accelerator": judge.accelerator.name,
                "delivered": delivery.delivered,
                "queued": delivery.queued,
                "refused": delivery.refused,
                "unsaved": delivery.unsaved,
                "dropped": delivery.dropped,
                "dropped_by_kind": delivery.discarded,
                "last_error": delivery.last_error,
                "time_synced": self.clock.reckon().synced,
                **facts,
            }
        )
        self.publisher.say(broker.Publication(self._topics.health, message.to_json()))

    def change(self, config: Config, judge: Judge, options: broker.BrokerOptions) -> None:
        """Say what the node is now; and deliver to another broker, or as somebody else, if the options say so."""
        self._site = (config, judge)
        if options == self._options:
            self.publisher.announce_again()
            return
        self._options = options
        self.publisher.connect_anew(partial(self._connecting))

    def _connecting(self) -> broker.BrokerOptions:
        """Where to connect now, and as whom. Called on the publisher thread before each attempt."""
        # Even if nothing can be sent: should the machine be started anew, this boot's time is known.
        self._discard_old(self._reckoned())
        config, _ = self._site
        return broker_options(config.mqtt, self._environment)

    def _finished(self, message: SpooledMessage) -> bytes | None:
        """A message as it is sent now. Called on the publisher thread."""
        now = self._reckoned()
        self._discard_old(now)
        waited_s = self._waited_s(message, now)
        return messages.finished(message.payload, queued_s=waited_s, boots=self.spool.boots)

    def _waited_s(self, message: SpooledMessage, now: Reckoning) -> float | None:
        """How long ago a message was made; None where it was before a reboot, and UTC is not known then or now."""
        if message.boot == now.boot:
            return max(0.0, self.clock.monotonic() - message.made_s)
        began_s = self.spool.boots.get(message.boot)
        if began_s is None or not now.synced:
            return None
        return max(0.0, now.utc_zero_s + self.clock.monotonic() - (began_s + message.made_s))

    def _reckoned(self) -> Reckoning:
        """The time, as far as it is known; once it is, the spool remembers it for what was told before."""
        reckoning = self.clock.reckon()
        if reckoning.synced and reckoning.boot not in self.spool.boots:
            self.spool.note_boot(reckoning.boot, reckoning.utc_zero_s)
        return reckoning

    def _discard_old(self, now: Reckoning) -> None:
        """What is too old goes, where it is known how old it is; once in a while, for in a full spool it takes seconds.

        On the publisher thread, which may be held up.
        """
        monotonic_s = self.clock.monotonic()
        if now.synced and monotonic_s >= self._next_discard_s:
            self._next_discard_s = monotonic_s + DISCARD_INTERVAL_S
            config, _ = self._site
            self.spool.discard_older(now.utc_zero_s + monotonic_s - config.spool.max_age_days * _DAY_S)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._stop.set()

    def _end_interrupted(self) -> None:
        """Events that were open when the agent was killed get their end."""
        for event in self.spool.open_events():
            end = messages.interrupted_end(event.payload)
            if end is None:
                self.spool.forget_event(event.event_id)
                log.error("event.unreadable event_id=%s", event.event_id)
                continue
            self.spool.append(event.topic, end, event_id=event.event_id, ends=True)
            log.warning("event.interrupted event_id=%s", event.event_id)

    def _announcement(self) -> Sequence[broker.Publication]:
        """What is said first on each connection; before what has waited, which may be too old by now."""
        self._discard_old(self._reckoned())
        config, judge = self._site
        common = config.model_dump_json(exclude={"node": {"id"}, "mqtt": {"username", "password"}})
        accelerator = judge.accelerator
        info = wire.InfoMessage(
            node=config.node.id,
            started=self._started,
            agent_version=__version__,
            model=judge.identity,
            labels=tuple(judge.rules),
            accelerator=wire.AcceleratorInfo(name=accelerator.name, asked=accelerator.asked, reason=accelerator.reason),
            config_sha256=hashlib.sha256(common.encode()).hexdigest(),
            sources=(wire.SourceInfo(id=config.node.source, sample_rate_hz=self._sample_rate_hz),),
            liveness=self._liveness,
        )
        return (
            broker.Publication(self._topics.status, wire.ONLINE, retain=True),
            broker.Publication(self._topics.info, info.to_json(), retain=True),
            *self._discovery(),
        )

    def _discovery(self) -> Iterator[broker.Publication]:
        """What makes a device of the node in Home Assistant; what takes it away, once nobody asks for that any more."""
        config, judge = self._site
        asked = config.mqtt.home_assistant
        before, self._discovered = self._discovered, None
        if asked.enabled:
            card = judge.model.card
            topic, payload = home_assistant.discovery(
                self._topics,
                prefix=asked.prefix,
                source=config.node.source,
                labels=[label for label in card.labels if label != card.background_label],
                told=tuple(judge.rules),
                update_interval_s=config.events.update_interval_s,
                level_interval_s=config.levels.interval_s,
                calibrated=config.audio.full_scale_db is not None,
                agent_version=__version__,
                model=f"{card.name} {card.version}",
            )
            self._discovered = topic
            yield broker.Publication(topic, payload, retain=True)
        if before is not None and before != self._discovered:
            yield broker.Publication(before, b"", retain=True)
