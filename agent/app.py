"""The one builder: configuration in, parts joined, threads started and stopped.

Called on the main thread, which afterwards looks after signals, health and systemd's watchdog.
"""

import hashlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Self

from agent import __version__, broker, messages
from agent.accelerator import Choice, choose
from agent.aggregation import Aggregator
from agent.clock import Reckoning, WallClock, utc_now
from agent.config import Config, EventsConfig, InferenceConfig, MqttConfig
from agent.errors import BrokerError, ConfigError, DatabaseUnwritableError
from agent.events import EventDetector
from agent.frontend import FrontEnd, join_period_s
from agent.inference import Classifier
from agent.litert import CPU, AcceleratorError
from agent.model_card import DEFAULT_MODEL, ModelCard, ModelFolder, event_rules, load_model_folder
from agent.publisher import Publisher
from agent.shelf import SpooledMessage
from agent.spool import Spool
from agent.values import EventRule, Gap, SoundEvent

log = logging.getLogger(__name__)

REPLAY_SPOOL_NAME = "replay-spool.sqlite"  # beside that of the sensor, which may be running
COVERAGE_FILE_NAME = "coverage.sqlite"  # beside that, too
STDIN = 0
NEVER = 1.0  # an `on` that says that a class is not told
DRAIN_S = 5.0  # at shutdown, for messages that wait for the broker
DISCARD_INTERVAL_S = 3600.0  # between two looks for messages that are too old

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one stream: they remember the past, and belong to one thread."""

    front_end: FrontEnd
    aggregator: Aggregator
    detector: EventDetector

    def widen(self, factor: int) -> None:
        """From now on, judge a window only each so many hops."""
        self.front_end.widen(factor)
        self.aggregator.widen(factor)

    def change(self, judge: "Judge") -> list[SoundEvent]:
        """From now on, judge by its rules; gives the ends of events whose rule is another."""
        anew = self.aggregator.set_span(judge.span_s)
        return self.detector.change(judge.rules, update_interval_s=judge.config.events.update_interval_s, anew=anew)


class Judge:
    """A model and the site's rules: everything between sound and event.

    Args:
        config: the effective configuration.
        live: whether sound is heard as it comes: only there `auto` looks for an accelerator. Recordings are heard many
            windows at once, by the CPU, for the same events on every machine.

    Attributes:
        config: the effective configuration.
        model, rules, classifier: what it judges by.
        streams: whether the embedding network runs in its streaming form.

    Raises:
        ModelError: the model folder is not what its card says, or has no classifier.
        ConfigError: the rules, the window hop or the form of inference do not fit the model.
    """

    def __init__(self, config: Config, *, live: bool = False) -> None:
        self.model: ModelFolder = load_model_folder(config.model.path or DEFAULT_MODEL)
        self.model.require_classifier()  # before the rules, which would say that there are no classes
        self.config = config
        card = self.model.card
        self.rules = _rules(card, config.events)
        self.stages(card.front_end.sample_rate_hz)  # what does not fit is said now, not when sound comes
        self.streams = _streams(card, config.inference)
        asked = config.inference.accelerator
        if asked == "auto" and not live:
            self._choice = Choice(asked, CPU, "sound is not live")
        else:
            self._choice = choose(asked, self.model, streaming=self.streams)
        try:
            self.classifier = self._classifier()
        except AcceleratorError as error:  # it could a moment ago, in another process
            self._choice = self._choice.given_up(str(error))
            self.classifier = self._classifier()
        if self._choice.refused:
            log.warning("accelerator.refused asked=%s reason=%s", asked, self._choice.reason)

    def _classifier(self) -> Classifier:
        return Classifier(
            self.model,
            num_threads=self.config.inference.num_threads,
            streaming=self.streams,
            device=self._choice.device,
        )

    @property
    def accelerator(self) -> Choice:
        """Where the embedding network runs now, and why; it changes when an accelerator fails."""
        failure = self.classifier.failure
        return self._choice if failure is None else self._choice.given_up(f"failed while it ran: {failure}")

    def under(self, config: Config) -> "Judge":
        """The same model under another configuration of the events and of the broker.

        Raises:
            ConfigError: the rules do not fit the model.
        """
        other = copy(self)
        other.config = config
        other.rules = _rules(self.model.card, config.events)
        return other

    @property
    def span_s(self) -> float:
        """What likelihoods are summed over."""
        return self.config.events.span_s or self.model.card.events.span_s

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes, background included."""
        return self.model.card.labels

    @property
    def identity(self) -> messages.ModelIdentity:
        """The model, for messages."""
        card = self.model.card
        return messages.ModelIdentity(name=card.name, version=card.version, sha256=self.model.sha256)

    @property
    def window_hop_s(self) -> float:
        """As configured."""
        return self.config.inference.window_hop_s

    @property
    def widest(self) -> int:
        """How many hops may lie between two windows: these must touch, or sound between them would not be heard."""
        numbers = self.model.card.front_end
        return max(1, int(numbers.n_frames * numbers.hop_length_samples / (self.window_hop_s * numbers.sample_rate_hz)))

    @property
    def join_period_s(self) -> int:
        """A stream can be joined each time it is so old."""
        return join_period_s(self.model.card.front_end, window_hop_s=self.window_hop_s)

    def stages(self, sample_rate_hz: int) -> Stages:
        """Fresh stages for a stream at this rate."""
        card, config = self.model.card, self.config
        hop_s = config.inference.window_hop_s
        return Stages(
            FrontEnd(card.front_end, capture_rate_hz=sample_rate_hz, window_hop_s=hop_s),
            Aggregator(span_s=self.span_s, window_hop_s=hop_s),
            EventDetector(
                labels=card.labels,
                rules=self.rules,
                sample_rate_hz=sample_rate_hz,
                onset_response_s=card.events.onset_response_s,
                offset_response_s=card.events.offset_response_s,
                update_interval_s=config.events.update_interval_s,
            ),
        )


def _rules(card: ModelCard, events: EventsConfig) -> dict[str, EventRule]:
    """The rule of each class that is told."""
    rules = event_rules(card.events, card.labels, events.default, events.classes)
    rules.pop(card.background_label or "", None)
    for label in events.labels or ():
        if label not in rules:
            raise ConfigError(f"events.labels: unknown class {label!r}, expected some of {', '.join(rules)}")
        if rules[label].on >= NEVER:
            raise ConfigError(f"events.labels: {label} is not told, expected events.classes.{label}.on below 1")
    wanted = rules.keys() if events.labels is None else events.labels
    return {label: rule for label, rule in rules.items() if label in wanted and rule.on < NEVER}


def _streams(card: ModelCard, inference: InferenceConfig) -> bool:
    """Whether the embedding network runs in its streaming form."""
    frame_hop_s = card.front_end.hop_length_samples / card.front_end.sample_rate_hz
    if inference.form == "windowed":
        return False
    if card.streaming is None:
        problem = f"model {card.name} has no streaming form"
    elif round(inference.window_hop_s / frame_hop_s) % card.streaming.chunk_frames:
        problem = (
            f"inference.window_hop_s = {inference.window_hop_s}, expected a multiple of the model's chunk, "
            f"{card.streaming.chunk_frames * frame_hop_s} s"
        )
    else:
        return True
    if inference.form == "streaming":
        raise ConfigError(f"inference.form = 'streaming': {problem}")
    return False


class Stop:
    """Set once, by any thread or a signal handler; one thread waits for it.

    A `threading.Event` would deadlock where a signal comes while the main thread is inside its `wait`: the handler's
    `set` needs the lock that `wait` holds. `SimpleQueue.put` is made for handlers.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Whoever waits goes on."""
        self._is_set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it is time to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most so long; give whether it is."""
        if not self._is_set:
            with suppress(Empty):
                self._wake.get(timeout=timeout_s)
        return self._is_set


class StopSignals:
    """Turns SIGINT and SIGTERM into a `Stop`; afterwards the old handlers are back.

    Args:
        on_hangup: called, from the handler, at SIGHUP; None leaves SIGHUP alone. The SIGHUP of a terminal that has gone
            is a stop.
    """

    def __init__(self, on_hangup: Callable[[], None] | None = None) -> None:
        self.stop = Stop()
        self.received: int | None = None
        self._on_hangup = on_hangup
        self._had_terminal = os.isatty(STDIN)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        if self._on_hangup is not None:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self.stop.set()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._had_terminal and not os.isatty(STDIN):  # nobody is there any more who could stop the listening
            self._note(number, frame)
        elif self._on_hangup is not None:
            self._on_hangup()

    @property
    def exit_code(self) -> int:
        """0, or 128 and the number of the signal."""
        return 0 if self.received is None else 128 + self.received


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
        password=broker.read_password(
            mqtt.password.get_secret_value() if mqtt.password else None, mqtt.password_file, environment
        ),
        tls=broker.tls_context(tls.ca_file, tls.cert_file, tls.key_file) if tls.enabled else None,
        tls_sha256=broker.tls_sha256(tls.ca_file, tls.cert_file, tls.key_file) if tls.enabled else None,
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
        self._topics = messages.Topics(config.mqtt.prefix, config.node.id)
        self._event_ids = messages.EventIds()
        self._sample_rate_hz: int | None = None
        self._liveness: messages.LivenessPart | None = None
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
            farewell=None if replayed else broker.Publication(self._topics.status, messages.OFFLINE, retain=True),
            on_failure=self._fail,
        )

    def __enter__(self) -> Self:
        self.publisher.start()
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        delivered = self.publisher.stop(DRAIN_S)
        waiting, why = len(self.spool), self.publisher.delivery().last_error
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
            replayed=self._replayed,
            event_ids=self._event_ids,
        )

        def tell(event: SoundEvent) -> None:
            if self.clock.monotonic() >= self._next_discard_s:
                self._discard_old()
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

    def say_liveness(self, liveness: messages.LivenessPart) -> None:
        """Whether the sensor hears has changed: say it in `info`."""
        self._liveness = liveness
        self.publisher.announce_again()

    def say_health(self, facts: Mapping[str, object]) -> None:
        """Say how the sensor is doing, to whoever hears it now.

        Args:
            facts: the fields of `HealthMessage` that the sensor knows; the outbox adds what it knows.
        """
        config, _ = self._site
        delivery = self.publisher.delivery()
        message = messages.HealthMessage.model_validate(
            {
                "schema": "urbansound.health/1",
                "node": config.node.id,
                "source": config.node.source,
                "time": self.clock.now(),
                "liveness": self._liveness,
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
        self._reckoned()  # even if nothing can be sent: should the machine be started anew, this boot's time is known
        config, _ = self._site
        return broker_options(config.mqtt, self._environment)

    def _finished(self, message: SpooledMessage) -> bytes | None:
        """A message as it is sent now. Called on the publisher thread."""
        waited_s = self._waited_s(message, self._reckoned())
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

    def _discard_old(self) -> None:
        """What is too old goes, where it is known how old it is."""
        config, _ = self._site
        self._next_discard_s = self.clock.monotonic() + DISCARD_INTERVAL_S
        now = self._reckoned()
        if now.synced:
            now_s = now.utc_zero_s + self.clock.monotonic()
            self.spool.discard_older(now_s - config.spool.max_age_days * _DAY_S)

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
        self._discard_old()
        config, judge = self._site
        public = config.model_dump_json(exclude={"mqtt": {"password"}})
        accelerator = judge.accelerator
        info = messages.InfoMessage(
            node=config.node.id,
            started=self._started,
            agent_version=__version__,
            model=judge.identity,
            labels=tuple(judge.rules),
            accelerator=messages.AcceleratorInfo(
                name=accelerator.name, asked=accelerator.asked, reason=accelerator.reason
            ),
            config_sha256=hashlib.sha256(public.encode()).hexdigest(),
            sources=(messages.SourceInfo(id=config.node.source, sample_rate_hz=self._sample_rate_hz),),
            liveness=self._liveness,
        )
        return (
            broker.Publication(self._topics.status, messages.ONLINE, retain=True),
            broker.Publication(self._topics.info, info.to_json(), retain=True),
        )
