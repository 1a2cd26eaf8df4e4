"""Values → messages on the wire, and the only place where sample counts become UTC.

In: `SoundEvent`s, gaps and a timeline. Out: JSON, as `wire` says. Telling happens on the pipeline thread; all else here
is pure.

What is told waits in the spool as a *draft*, which `finished` completes when it is sent: with how long it waited, and
with the right time, where the clock was not yet set when it was told.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from agent.clock import EPOCH, Reckoning, from_ns, rfc3339, to_milliseconds
from agent.level import dbfs
from agent.values import EventState, Gap, IntervalLevel, LevelStatistics, SoundEvent, SoundLevel
from agent.wire import EventDraft, GapDraft, LevelDraft, LevelPart, ModelIdentity, Quality, Stamp, Topics

_RANDOM_BITS = 74  # of a UUIDv7 beside time, version and variant: RFC 9562, 5.7
_SECOND_DIGITS = 3
_LIKELIHOOD_DIGITS = 4
_QUEUED_DIGITS = 1
_LEVEL_DIGITS = 1


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
        full_scale_db: the sound pressure level of a sine at full scale; None where nobody has measured it.
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
        full_scale_db: float | None = None,
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
        self._full_scale_db = full_scale_db
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
            level=event.level and level_part(event.level, self._sample_rate_hz, self._full_scale_db),
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


def level_part(level: SoundLevel, sample_rate_hz: int, full_scale_db: float | None) -> LevelPart:
    """A level in decibels, to a tenth.

    Args:
        level: relative to full scale.
        sample_rate_hz: of the samples that it was measured on.
        full_scale_db: the sound pressure level of a sine at full scale; None where nobody has measured it.
    """
    return LevelPart(
        laeq_db=_level_db(level.mean_square, full_scale_db),
        lafmax_db=_level_db(level.fast_max, full_scale_db),
        sel_db=_level_db(level.mean_square * level.n_samples / sample_rate_hz, full_scale_db),
        background_la90_db=None if level.background is None else _level_db(level.background, full_scale_db),
        calibrated=full_scale_db is not None,
    )


def _level_db(square: float, full_scale_db: float | None) -> float:
    return round(dbfs(square) + (full_scale_db or 0.0), _LEVEL_DIGITS)


def levels_row(
    statistics: LevelStatistics, *, duration_s: float, file: str, full_scale_db: float | None
) -> dict[str, str | float | bool]:
    """What `levels` prints about a recording.

    Args:
        statistics: of all of it.
        duration_s: how long it is.
        file: the recording, as the user named it.
        full_scale_db: as of an `EventTeller`.

    Returns:
        `file`, `duration_s`, `laeq_db`, `lafmax_db`, the levels that F exceeded for 10, 50 and 90 % of the time, and
        `calibrated`.
    """
    return {
        "file": file,
        "duration_s": round(duration_s, _SECOND_DIGITS),
        **_in_decibels(statistics, full_scale_db),
        "calibrated": full_scale_db is not None,
    }


def interval_row(
    level: IntervalLevel, *, file: str, recording_start: datetime | None, full_scale_db: float | None
) -> dict[str, str | float | bool]:
    """What `levels --interval` prints about an interval of a recording.

    Args:
        level: dated by `recording_start`, or as if 1970 had begun with it.
        file: the recording, as the user named it.
        recording_start: when its first sample was heard; None where nobody knows, then `start` and `end` are left out.
        full_scale_db: as of an `EventTeller`.

    Returns:
        `file`, `onset_s` from the start of the file, and the fields of a `LevelMessage`.
    """
    start, end = (to_milliseconds(from_ns(ns)) for ns in (level.start_ns, level.end_ns))
    row: dict[str, str | float | bool] = {
        "file": file,
        "onset_s": round(max(0.0, (start - (recording_start or EPOCH)).total_seconds()), _SECOND_DIGITS),
        "duration_s": round((end - start).total_seconds(), _SECOND_DIGITS),
        **_in_decibels(level.statistics, full_scale_db),
        "calibrated": full_scale_db is not None,
        "silent_s": round(level.silent_ns / 1e9, _SECOND_DIGITS),
        "clipped_s": round(level.clipped_ns / 1e9, _SECOND_DIGITS),
    }
    if recording_start is not None:
        row |= {"start": rfc3339(start), "end": rfc3339(end)}
    return row


def _in_decibels(statistics: LevelStatistics, full_scale_db: float | None) -> dict[str, float]:
    return {
        "laeq_db": _level_db(statistics.mean_square, full_scale_db),
        "lafmax_db": _level_db(statistics.fast_max, full_scale_db),
        "la10_db": _level_db(statistics.fast_10, full_scale_db),
        "la50_db": _level_db(statistics.fast_50, full_scale_db),
        "la90_db": _level_db(statistics.fast_90, full_scale_db),
    }


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


def told_level(
    level: IntervalLevel, *, topics: Topics, source: str, reckoning: Reckoning, full_scale_db: float | None
) -> tuple[str, Callable[[int], bytes]]:
    """Word the level of an interval, dated by this reckoning: its topic, and from `seq` to the draft."""
    start, end = (to_milliseconds(from_ns(ns)) for ns in (level.start_ns, level.end_ns))
    message = LevelDraft(
        schema_name="urbansound.level/1",
        seq=1,
        node=topics.node,
        source=source,
        start=start,
        end=end,
        duration_s=round((end - start).total_seconds(), _SECOND_DIGITS),
        **_in_decibels(level.statistics, full_scale_db),
        calibrated=full_scale_db is not None,
        silent_s=round(level.silent_ns / 1e9, _SECOND_DIGITS),
        clipped_s=round(level.clipped_ns / 1e9, _SECOND_DIGITS),
        quality=Quality(time_synced=reckoning.synced),
        stamp=stamp_of(reckoning),
    )
    return topics.level(source), lambda seq: message.model_copy(update={"seq": seq}).to_json()


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
            message["quality"]["time_synced"] = True
        if stamp is not None and stamp.get("end_only"):
            message["end"] = max(message["start"], message["end"])  # RFC 3339 in UTC: later is larger
            _measure_anew(message)
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


def finished_event_row(
    event: SoundEvent,
    *,
    sample_rate_hz: int,
    file: str,
    recording_start: datetime | None = None,
    full_scale_db: float | None = None,
) -> dict[str, str | float | bool | None]:
    """What `replay` prints about an event that has ended.

    Args:
        event: in state `end`.
        sample_rate_hz: of the samples that it is counted in.
        file: the recording, as the user named it.
        recording_start: when its first sample was heard; None where nobody knows, then `start` and `end` are left out.
        full_scale_db: as of an `EventTeller`.

    Returns:
        `file`, `label`, `onset_s`, `offset_s`, `duration_s` (seconds from the start of the file, to the millisecond),
        `likelihood_peak`, `likelihood_mean`, the fields of its `LevelPart`, `end_reason`, and if known `start` and
        `end` (RFC 3339).

    Raises:
        ValueError: the event is still open.
    """
    if event.offset is None:
        raise ValueError(f"event {event.id} ({event.label}) is in state {event.state}, expected end")
    onset_s = round(event.onset / sample_rate_hz, _SECOND_DIGITS)
    duration_s = round((event.offset - event.onset) / sample_rate_hz, _SECOND_DIGITS)
    offset_s = round(onset_s + duration_s, _SECOND_DIGITS)
    row: dict[str, str | float | bool | None] = {
        "file": file,
        "label": event.label,
        "onset_s": onset_s,
        "offset_s": offset_s,
        "duration_s": duration_s,
        "likelihood_peak": round(event.likelihood_peak, _LIKELIHOOD_DIGITS),
        "likelihood_mean": round(event.likelihood_mean, _LIKELIHOOD_DIGITS),
    }
    if event.level is not None:
        row |= level_part(event.level, sample_rate_hz, full_scale_db).model_dump(exclude_none=True)
    row["end_reason"] = event.end_reason
    if recording_start is not None:
        row["start"] = rfc3339(recording_start + timedelta(seconds=onset_s))
        row["end"] = rfc3339(recording_start + timedelta(seconds=offset_s))
    return row
