"""The wire: topics and schemas, as docs/mqtt.md promises them to subscribers.

Compact JSON (UTF-8, stable key order, no nulls, no NaN). Fields may be added to a schema; what is there keeps its name
and meaning, else the number in the schema's name rises. `messages` fills them.

    <prefix>/<node>/status            retained, last will   `online` or `offline`
    <prefix>/<node>/info              retained              urbansound.info/1
    <prefix>/<node>/health            QoS 1, not retained   urbansound.health/1
    <prefix>/<node>/<source>/event    QoS 1, not retained   urbansound.event/1
    <prefix>/<node>/<source>/gap      QoS 1, not retained   urbansound.gap/1
    <prefix>/<node>/<source>/level    QoS 1, not retained   urbansound.level/1
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from agent.clock import rfc3339
from agent.values import EndReason, EventState, GapCause

ONLINE = b"online"
OFFLINE = b"offline"
HEALTH_INTERVAL_S = 60.0

WireEndReason = EndReason | Literal["interrupted"]  # interrupted: the agent was killed while the sound was open


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("expected a moment that UTC can name") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc), PlainSerializer(rfc3339, return_type=str)]
Likelihood = Annotated[float, Field(ge=0.0, le=1.0)]


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

    def level(self, source: str) -> str:
        """How loud it was at one microphone, interval by interval."""
        return f"{self.prefix}/{self.node}/{source}/level"


def watched_topics(prefix: str) -> tuple[str, ...]:
    """The MQTT filters for what happens: events, gaps, levels and health of all nodes."""
    everyone = Topics(prefix, "+")
    return everyone.event("+"), everyone.gap("+"), everyone.level("+"), everyone.health


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


class LevelPart(WirePart):
    """How loud it was: decibels, A-weighted.

    Attributes:
        laeq_db: equivalent level, from `start` to `end` or as far as it is told.
        lafmax_db: the largest level under the time weighting F.
        sel_db: sound exposure level: what would be as much in one second.
        background_la90_db: exceeded for 90 % of the minute before; left out where too little of it was heard.
        calibrated: whether these are sound pressure levels; else they are relative to a sine at full scale.
    """

    laeq_db: float
    lafmax_db: float
    sel_db: float
    background_la90_db: float | None = None
    calibrated: bool


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
        level: how loud it was so far; left out where it lasted less than an eighth of a second.
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
    level: LevelPart | None = None
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


class LevelMessage(WirePart):
    """How loud it was in an interval of time, of which all was heard: decibels, A-weighted.

    Attributes:
        seq: counted with those of the events.
        start: when it began; a multiple of `levels.interval_s`, unless the agent began to hear then.
        end: when it was over; the same, unless there is a gap, or the agent stopped.
        duration_s: seconds between them.
        laeq_db: equivalent level.
        lafmax_db: the largest level under the time weighting F.
        la10_db, la50_db, la90_db: exceeded by F for 10, 50 and 90 % of the time.
        calibrated: as of a `LevelPart`.
        silent_s: how much of it the samples did not move: then there was no sound to measure.
        clipped_s: how much of it they were at full scale: then it was louder than it seems.
        queued_s: as of an event.
    """

    schema_name: Annotated[Literal["urbansound.level/1"], Field(alias="schema")]
    seq: Annotated[int, Field(ge=1)]
    node: str
    source: str
    start: Moment
    end: Moment
    duration_s: Annotated[float, Field(ge=0.0)]
    laeq_db: float
    lafmax_db: float
    la10_db: float
    la50_db: float
    la90_db: float
    calibrated: bool
    silent_s: Annotated[float, Field(ge=0.0)]
    clipped_s: Annotated[float, Field(ge=0.0)]
    quality: Quality
    queued_s: Annotated[float, Field(ge=0.0)] | None = None


class LevelDraft(LevelMessage):
    """A level message in the spool; `stamp` is not sent."""

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


AnyMessage = EventMessage | GapMessage | LevelMessage | HealthMessage


def read_message(payload: bytes) -> AnyMessage | None:
    """What a message says, or None where it is not one of these."""
    kinds: tuple[type[AnyMessage], ...] = (EventMessage, GapMessage, LevelMessage, HealthMessage)
    for kind in kinds:
        with suppress(ValidationError):
            return kind.model_validate_json(payload)
    return None
