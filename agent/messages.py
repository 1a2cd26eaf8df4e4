"""Values → topics and JSON: the only place that knows the wire, and the only place where sample counts become UTC.

In: `SoundEvent`s and a timeline. Out: topics and compact JSON (UTF-8, stable key order, no nulls, no NaN). Fields may
be added to a schema; what is there keeps its name and meaning, else the number in the schema's name rises.
Telling happens on the pipeline thread; everything else here is pure.

What is told waits in the spool as a *draft*, which `finished` completes when it is sent: with how long it waited, and
with the right time, where the clock was not yet set when it was told.

    <prefix>/<node>/status            retained, last will   `online` or `offline`
    <prefix>/<node>/info              retained              urbansound.info/1
    <prefix>/<node>/health            QoS 1, not retained   urbansound.health/1
    <prefix>/<node>/<source>/event    QoS 1, not retained   urbansound.event/1
    <prefix>/<node>/<source>/gap      QoS 1, not retained   urbansound.gap/1
"""

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from agent.clock import Reckoning, from_ns, rfc3339, to_milliseconds
from agent.values import EndReason, EventState, Gap, GapCause, SoundEvent

ONLINE = b"online"
OFFLINE = b"offline"

WireEndReason = EndReason | Literal["interrupted"]  # interrupted: the agent was killed while the sound was open

Moment = Annotated[
    AwareDatetime, PlainSerializer(rfc3339, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})
]
Likelihood = Annotated[float, Field(ge=0.0, le=1.0)]

_RANDOM_BITS = 74  # of a UUIDv7 beside time, version and variant: RFC 9562, 5.7
_SECOND_DIGITS = 3
_LIKELIHOOD_DIGITS = 4
_QUEUED_DIGITS = 1


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a node speaks.

    >>> Topics("urbansound", "node-07").event("street")
    'urbansound/node-07/street/event'
    """

    prefix: str
    node: str

    @property
    def status(self) -> str:
        """`online` or `offline`."""
        return f"{self.prefix}/{self.node}/status"

    @property
    def info(self) -> str:
        """What the node is."""
        return f"{self.prefix}/{self.node}/info"

    @property
    def health(self) -> str:
        """How the node is doing."""
        return f"{self.prefix}/{self.node}/health"

    def event(self, source: str) -> str:
        """The sound events of one microphone."""
        return f"{self.prefix}/{self.node}/{source}/event"

    def gap(self, source: str) -> str:
        """When one microphone was not heard."""
        return f"{self.prefix}/{self.node}/{source}/gap"


def event_topics(prefix: str) -> str:
    """The MQTT filter for the events of all nodes and sources."""
    return Topics(prefix, "+").event("+")


def watched_topics(prefix: str) -> tuple[str, ...]:
    """The MQTT filters for what happens: events, gaps and health of all nodes."""
    everyone = Topics(prefix, "+")
    return everyone.event("+"), everyone.gap("+"), everyone.health


class WirePart(BaseModel):
    """A part of a message. What a newer agent adds is skipped on reading."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)

    def to_json(self) -> bytes:
        """Compact JSON, UTF-8, keys in the order of the fields; what is not known is left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class ModelIdentity(WirePart):
    """Which model judged; `sha256` is that of its card, which names the hashes of its files."""

    name: str
    version: str
    sha256: str


class Quality(WirePart):
    """How far to trust the message.

    Attributes:
        time_synced: whether the times are by a clock that a time server had set; left out where nobody could say.
    """

    time_synced: bool | None = None


class EventMessage(WirePart):
    """One sound event, told at its `start`, perhaps by `update`s, and at its `end`.

    Attributes:
        event_id: UUIDv7, the same in every message about this event.
        group: a wider name for the label, such as `alert`; left out where the model gives none.
        seq: rises with every message of a spool, over restarts too; a message that came twice has it twice.
        event_type: which of the three this is.
        start: when the sound began; the same in every message about it that has the same `time_synced`.
        end: when it ended, `start` + `duration_s`; left out while it is open.
        duration_s: seconds; up to what has been heard, while it is open.
        likelihood_peak: the largest summed likelihood so far.
        likelihood_mean: the mean of the summed likelihoods so far.
        evidence_s: for how long the network was by itself as sure as it takes to start an event, so far; seconds.
        end_reason: why it ended; left out while it is open.
        replayed: whether this was a recording.
        queued_s: seconds between the making of this message and its sending, to a tenth; 0 while all is well. Left out
            where nobody knows: it was made before a reboot, and the clock was not set.
    """

    schema_name: Annotated[Literal["urbansound.event/1"], Field(alias="schema")]
    event_id: UUID
    seq: Annotated[int, Field(ge=1)]
    event_type: EventState
    node: str
    source: str
    label: str
    group: str | None = None
    start: Moment
    end: Moment | None = None
    duration_s: Annotated[float, Field(ge=0.0)]
    likelihood_peak: Likelihood
    likelihood_mean: Likelihood
    evidence_s: Annotated[float, Field(ge=0.0)] | None = None
    end_reason: WireEndReason | None = None
    model: ModelIdentity
    quality: Quality
    replayed: bool
    queued_s: Annotated[float, Field(ge=0.0)] | None = None


class Stamp(WirePart):
    """By what the times of a draft were reckoned, while nobody knew that the clock was right.

    Attributes:
        boot: of the machine.
        utc_zero_s: when it began, as was believed then; seconds since 1970.
        end_only: whether only `end` was reckoned so.
    """

    boot: str
    utc_zero_s: float
    end_only: bool | None = None


class EventDraft(EventMessage):
    """An event message in the spool; `stamp` is not sent."""

    stamp: Stamp | None = None


class SourceInfo(WirePart):
    """One microphone.

    Attributes:
        id: its name in the topics.
        sample_rate_hz: the capture rate; left out until the microphone is open.
    """

    id: str
    sample_rate_hz: int | None = None


class LivenessPart(WirePart):
    """Whether the node hears.

    Attributes:
        state: `hearing`, `silent`, `clipped`, `stalled`, `lost` or `recovering`.
        cause: why; left out while it is `hearing`.
        since: since when.
    """

    state: str
    cause: str | None = None
    since: Moment


class GapMessage(WirePart):
    """A time of which not everything was heard.

    Attributes:
        seq: counted with those of the events.
        start: when it began.
        end: when it was over.
        duration_s: seconds between them.
        lost_s: how much of it was lost.
        cause: why.
        queued_s: as of an event.
    """

    schema_name: Annotated[Literal["urbansound.gap/1"], Field(alias="schema")]
    seq: Annotated[int, Field(ge=1)]
    node: str
    source: str
    start: Moment
    end: Moment
    duration_s: Annotated[float, Field(ge=0.0)]
    lost_s: Annotated[float, Field(ge=0.0)]
    cause: GapCause
    quality: Quality
    queued_s: Annotated[float, Field(ge=0.0)] | None = None


class GapDraft(GapMessage):
    """A gap message in the spool; `stamp` is not sent."""

    stamp: Stamp | None = None


class HealthMessage(WirePart):
    """How a node is doing; told once a minute, and when its liveness changes. Counts are since the start of the agent.

    Attributes:
        time: of the message.
        liveness: whether the node hears.
        changes: how often each state of liveness was entered.
        elapsed_s: how long the agent has been running: the sum of analysed, lost, drift and pending.
        captured_s: sound that came from the microphone.
        analysed_s: sound that the network has judged, the silent and the clipped included.
        silent_s: of it, where the samples did not move.
        clipped_s: of it, where they were at full scale.
        lost_s: not judged: the microphone was away, or sound was dropped on the way.
        drift_s: how far the sound card's clock has fallen behind that of the node.
        pending_s: not yet judged, or not yet known whether it comes.
        coverage_hour_percent: of this hour of UTC so far, how much was heard: neither lost, silent nor clipped.
        coverage_last_hour_percent: of the hour before; left out where nothing is known of it.
        gaps: how many.
        events: how many were begun.
        late_s: how much sound waits to be judged.
        wide_hop_s: the window hop, where it is wider than configured so that the analysis keeps up.
        accelerator: what the embedding network runs on; `info` says why.
        reopened: how often a lost microphone was found again.
        overflows: how often PortAudio said that it lost sound.
        invalid_samples: that were no numbers, and were taken for silence.
        delivered: messages that the broker has acknowledged.
        queued: messages that wait for it.
        refused: refusals by the broker; a message that is refused twice counts twice.
        unsaved: of the queued, in memory alone, since the disk takes nothing.
        dropped: messages discarded since the spool was made: no room, too old, or damaged.
        dropped_by_kind: the same by kind.
        last_error: what the broker refuses, or why the disk takes nothing.
        time_synced: whether the node's clock was set by a time server; left out where nobody could say.
    """

    schema_name: Annotated[Literal["urbansound.health/1"], Field(alias="schema")]
    node: str
    source: str
    time: Moment
    liveness: LivenessPart
    changes: dict[str, int]
    elapsed_s: float
    captured_s: float
    analysed_s: float
    silent_s: float
    clipped_s: float
    lost_s: float
    drift_s: float
    pending_s: float
    coverage_hour_percent: float
    coverage_last_hour_percent: float | None = None
    gaps: int
    events: int
    late_s: float
    wide_hop_s: float | None = None
    accelerator: str
    reopened: int
    overflows: int
    invalid_samples: int
    delivered: int
    queued: int
    refused: int
    unsaved: int
    dropped: int
    dropped_by_kind: dict[str, int]
    last_error: str | None = None
    time_synced: bool | None = None


class AcceleratorInfo(WirePart):
    """Where the embedding network runs.

    Attributes:
        name: `cpu`, `gpu`, `edgetpu`, `npu` or `delegate`.
        asked: as configured.
        reason: why this one, for a person.
    """

    name: str
    asked: str
    reason: str


class InfoMessage(WirePart):
    """What a node is, and whether it hears; retained.

    Attributes:
        started: when the agent started, by its wall clock at that time.
        agent_version: of this program.
        model: which model judges.
        labels: the classes that it may tell.
        accelerator: where the embedding network runs; told anew when that changes.
        config_sha256: of the effective configuration without secrets; the same on nodes that are set up the same.
        sources: the microphones.
        liveness: whether the node hears.
    """

    schema_name: Annotated[Literal["urbansound.info/1"], Field(alias="schema")] = "urbansound.info/1"
    node: str
    started: Moment
    agent_version: str
    model: ModelIdentity
    labels: tuple[str, ...]
    accelerator: AcceleratorInfo
    config_sha256: str
    sources: tuple[SourceInfo, ...]
    liveness: LivenessPart | None = None


class EventIds:
    """UUIDv7s that rise within a process, even where the times they are made from do not.

    Args:
        random_bits: gives an integer of so many random bits.

    Source: RFC 9562, 5.7 and 6.2 (method 2: within a millisecond the random part counts up).
    """

    def __init__(self, random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._random_bits = random_bits
        self._unix_ms = -1
        self._tail = 0

    def new(self, moment: datetime) -> UUID:
        """The next id, made from `moment`."""
        unix_ms = max(0, int(moment.timestamp() * 1000))
        if unix_ms > self._unix_ms:
            self._unix_ms, self._tail = unix_ms, self._random_bits(_RANDOM_BITS)
        else:
            self._tail += 1
            if self._tail >> _RANDOM_BITS:
                self._unix_ms, self._tail = self._unix_ms + 1, self._random_bits(_RANDOM_BITS)
        high, low = self._tail >> 62, self._tail & ((1 << 62) - 1)
        return UUID(int=self._unix_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """A message that waits for its `seq`, which the spool gives.

    Attributes:
        topic: where it goes.
        event_id: which event it is about.
        state: which of the three this is.
        payload: from `seq` to the draft.
    """

    topic: str
    event_id: str
    state: EventState
    payload: Callable[[int], bytes]

    @property
    def ends(self) -> bool:
        """Whether this is the last message about it."""
        return self.state == "end"


class EventTeller:
    """Puts the events of one source into words. Used by the pipeline thread.

    Args:
        topics: where the node speaks.
        source: the microphone.
        model: which model judges.
        groups: a wider name for some labels.
        utc_of: when a sample was heard (`Timeline.utc_of`, or a `recording_timeline`).
        reckon: by what it reckons; called before each event that begins (`Timeline.look`). None for a recording.
        sample_rate_hz: of the samples that events are counted in.
        replayed: whether this is a recording.
        event_ids: where ids come from; give all tellers of a process the same.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        source: str,
        model: ModelIdentity,
        groups: Mapping[str, str],
        utc_of: Callable[[int], datetime],
        sample_rate_hz: int,
        reckon: Callable[[], Reckoning] | None = None,
        replayed: bool = False,
        event_ids: EventIds | None = None,
    ) -> None:
        self._topics = topics
        self._source = source
        self._model = model
        self._groups = groups
        self._utc_of = utc_of
        self._sample_rate_hz = sample_rate_hz
        self._reckon = reckon
        self._replayed = replayed
        self._event_ids = event_ids or EventIds()
        # An open event keeps its start: were the timeline to move meanwhile, it would neither stretch nor shrink.
        self._open: dict[int, tuple[UUID, datetime, Reckoning | None]] = {}

    def tell(self, event: SoundEvent) -> ToldEvent:
        """Word one state of an event. Its first state must be `start`."""
        if event.state == "start":
            began_by = None if self._reckon is None else self._reckon()
            start = to_milliseconds(self._utc_of(event.onset))
            self._open[event.id] = (self._event_ids.new(start), start, began_by)
        event_id, start, reckoning = self._open.pop(event.id) if event.state == "end" else self._open[event.id]
        until = event.heard_until if event.offset is None else event.offset
        duration_s = round((until - event.onset) / self._sample_rate_hz, _SECOND_DIGITS)
        message = EventDraft(
            schema_name="urbansound.event/1",
            event_id=event_id,
            seq=1,
            event_type=event.state,
            node=self._topics.node,
            source=self._source,
            label=event.label,
            group=self._groups.get(event.label),
            start=start,
            end=None if event.offset is None else start + timedelta(seconds=duration_s),
            duration_s=duration_s,
            likelihood_peak=round(event.likelihood_peak, _LIKELIHOOD_DIGITS),
            likelihood_mean=round(event.likelihood_mean, _LIKELIHOOD_DIGITS),
            evidence_s=round(event.evidence / self._sample_rate_hz, _SECOND_DIGITS),
            end_reason=event.end_reason,
            model=self._model,
            quality=Quality(time_synced=None if reckoning is None else reckoning.synced),
            replayed=self._replayed,
            stamp=stamp_of(reckoning),
        )
        return ToldEvent(
            topic=self._topics.event(self._source),
            event_id=str(event_id),
            state=event.state,
            payload=lambda seq: message.model_copy(update={"seq": seq}).to_json(),
        )


def interrupted_end(last_payload: bytes) -> Callable[[int], bytes] | None:
    """The end of an event that was open when the agent was killed, from the last message about it.

    It ended when it was last told: nobody knows what was heard after that.

    Returns:
        from `seq` to the draft; None where the last message cannot be read: the file that it lay in is damaged.
    """
    try:
        last = EventDraft.model_validate_json(last_payload)
    except ValidationError:
        return None
    end = last.model_copy(
        update={
            "event_type": "end",
            "end": last.start + timedelta(seconds=last.duration_s),
            "end_reason": "interrupted",
        }
    )
    return lambda seq: end.model_copy(update={"seq": seq}).to_json()


def told_gap(gap: Gap, *, topics: Topics, source: str, reckoning: Reckoning) -> tuple[str, Callable[[int], bytes]]:
    """Word a gap, dated by this reckoning: its topic, and from `seq` to the draft."""
    start, end = (to_milliseconds(from_ns(ns)) for ns in (gap.start_ns, gap.end_ns))
    stamp = stamp_of(reckoning)
    message = GapDraft(
        schema_name="urbansound.gap/1",
        seq=1,
        node=topics.node,
        source=source,
        start=start,
        end=end,
        duration_s=max(0.0, round((end - start).total_seconds(), _SECOND_DIGITS)),
        lost_s=round(gap.lost_ns / 1e9, _SECOND_DIGITS),
        cause=gap.cause,
        quality=Quality(time_synced=reckoning.synced),
        stamp=stamp and stamp.model_copy(update={"end_only": gap.start_is_right or None}),
    )
    return topics.gap(source), lambda seq: message.model_copy(update={"seq": seq}).to_json()


def stamp_of(reckoning: Reckoning | None) -> Stamp | None:
    """What a draft needs so that `finished` can put its times right; None where they are right, or not reckoned."""
    if reckoning is None or reckoning.synced:
        return None
    return Stamp(boot=reckoning.boot, utc_zero_s=reckoning.utc_zero_s)


def finished(draft: bytes, *, queued_s: float | None, boots: Mapping[str, float]) -> bytes | None:
    """A message as it is sent.

    Args:
        draft: of any schema. `start` and `end` are put right, if there is a `stamp` of a boot that is known by now.
        queued_s: how long it has waited; None where nobody knows.
        boots: when boots of the machine began, in seconds since 1970, by a clock that was right.

    Returns:
        JSON; None where the draft is damaged.
    """
    try:
        message = json.loads(draft)
        stamp = message.pop("stamp", None)
        if stamp is not None and stamp["boot"] in boots:
            shift = timedelta(milliseconds=round((boots[stamp["boot"]] - stamp["utc_zero_s"]) * 1000))
            for name in ("end",) if stamp.get("end_only") else ("start", "end"):
                if name in message:
                    message[name] = rfc3339(datetime.fromisoformat(message[name]) + shift)
            if stamp.get("end_only"):
                _measure_anew(message)
            message["quality"]["time_synced"] = True
        if queued_s is not None:
            message["queued_s"] = round(queued_s, _QUEUED_DIGITS)
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _measure_anew(message: dict[str, Any]) -> None:
    """How long a gap was, when its end has moved and its start has not."""
    lasted = datetime.fromisoformat(message["end"]) - datetime.fromisoformat(message["start"])
    duration_s = max(0.0, round(lasted.total_seconds(), _SECOND_DIGITS))
    message["lost_s"] = round(message["lost_s"] + duration_s - message["duration_s"], _SECOND_DIGITS)
    message["duration_s"] = duration_s


def read_event(payload: bytes) -> EventMessage | None:
    """The event in a message, or None where it is not one of ours."""
    try:
        return EventMessage.model_validate_json(payload)
    except ValidationError:
        return None


def read_message(payload: bytes) -> EventMessage | GapMessage | HealthMessage | None:
    """What a message says, or None where it is not one of these."""
    kinds: tuple[type[EventMessage] | type[GapMessage] | type[HealthMessage], ...]
    kinds = (EventMessage, GapMessage, HealthMessage)
    for kind in kinds:
        with suppress(ValidationError):
            return kind.model_validate_json(payload)
    return None


def event_json_schema() -> dict[str, Any]:
    """The JSON Schema of `urbansound.event/1`, as it is sent."""
    return EventMessage.model_json_schema(mode="serialization", schema_generator=_AsSent)


class _AsSent(GenerateJsonSchema):
    """What is not known is left out: nothing may be null, or has a default."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def finished_event_row(
    event: SoundEvent, *, sample_rate_hz: int, file: str, recording_start: datetime | None = None
) -> dict[str, str | float | None]:
    """What `replay` prints about an event that has ended.

    Args:
        event: in state `end`.
        sample_rate_hz: of the samples that it is counted in.
        file: the recording, as the user named it.
        recording_start: when its first sample was heard; None where nobody knows, then `start` and `end` are left out.

    Returns:
        `file`, `label`, `onset_s`, `offset_s`, `duration_s` (seconds from the start of the file, to the millisecond),
        `likelihood_peak`, `likelihood_mean`, `end_reason`, and if known `start` and `end` (RFC 3339).

    Raises:
        ValueError: the event is still open.
    """
    if event.offset is None:
        raise ValueError(f"event {event.id} ({event.label}) is in state {event.state}, expected end")
    onset_s = round(event.onset / sample_rate_hz, _SECOND_DIGITS)
    duration_s = round((event.offset - event.onset) / sample_rate_hz, _SECOND_DIGITS)
    offset_s = round(onset_s + duration_s, _SECOND_DIGITS)
    row: dict[str, str | float | None] = {
        "file": file,
        "label": event.label,
        "onset_s": onset_s,
        "offset_s": offset_s,
        "duration_s": duration_s,
        "likelihood_peak": round(event.likelihood_peak, _LIKELIHOOD_DIGITS),
        "likelihood_mean": round(event.likelihood_mean, _LIKELIHOOD_DIGITS),
        "end_reason": event.end_reason,
    }
    if recording_start is not None:
        row["start"] = rfc3339(recording_start + timedelta(seconds=onset_s))
        row["end"] = rfc3339(recording_start + timedelta(seconds=offset_s))
    return row
