"""What goes over the wire."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from agent.clock import Reckoning, recording_timeline
from agent.messages import (
    EventIds,
    EventTeller,
    finished,
    finished_event_row,
    interrupted_end,
    levels_row,
    told_gap,
    told_level,
)
from agent.values import Gap, IntervalLevel, LevelStatistics, SoundEvent, SoundLevel
from agent.wire import GapMessage, LevelMessage, ModelIdentity, Topics, read_message

RATE_HZ = 48_000
NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
MODEL = ModelIdentity(name="edge-l3", version="1", sha256="ab" * 32)
TOPICS = Topics("urbansound", "node-07")

START = SoundEvent(
    id=0,
    state="start",
    label="siren",
    onset=4_800,
    offset=None,
    heard_until=52_800,
    likelihood_peak=0.87654321,
    likelihood_mean=0.5,
)
UPDATE = replace(START, state="update", heard_until=484_800, likelihood_peak=0.91)
END = replace(
    START,
    state="end",
    offset=379_200,
    heard_until=500_000,
    likelihood_peak=0.91,
    end_reason="quiet",
    evidence=300_000,
)
STATISTICS = LevelStatistics(mean_square=1.04e-3, fast_max=1e-2, fast_10=0.5e-2, fast_50=0.5e-4, fast_90=0.5e-4)
LEVEL = SoundLevel(n_samples=2 * RATE_HZ, mean_square=0.5e-2, fast_max=0.5e-1, background=0.5e-4)


def teller(
    utc_of: Callable[[int], datetime] | None = None,
    synced: bool | None = True,
    replayed: bool = False,
    sample_rate_hz: int = RATE_HZ,
    full_scale_db: float | None = None,
) -> EventTeller:
    return EventTeller(
        topics=Topics("urbansound", "node-07"),
        source="street",
        model=MODEL,
        groups={"siren": "alert"},
        utc_of=utc_of or recording_timeline(NOON, RATE_HZ),
        sample_rate_hz=sample_rate_hz,
        reckon=None if replayed else lambda: Reckoning("this boot", NOON.timestamp(), synced),
        full_scale_db=full_scale_db,
        replayed=replayed,
        event_ids=EventIds(random_bits=lambda bits: (1 << bits) // 3),
    )


def told(speaker: EventTeller, event: SoundEvent, seq: int = 1) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(sent(speaker.tell(event).payload(seq)))
    return message


def sent(draft: bytes, *, queued_s: float | None = 0.0, boots: Mapping[str, float] | None = None) -> bytes:
    payload = finished(draft, queued_s=queued_s, boots=boots or {})
    assert payload is not None
    return payload


def test_an_ended_event_reads_exactly_so() -> None:
    """The bytes on the wire are a contract: compact, in this order, without nulls."""
    speaker = teller()
    speaker.tell(START)

    ended = speaker.tell(END)

    assert ended.topic == "urbansound/node-07/street/event"
    assert ended.ends
    assert sent(ended.payload(4711)).decode() == (
        '{"schema":"urbansound.event/1","event_id":"019b796d-d664-7555-9555-555555555555","seq":4711,'
        '"event_type":"end","node":"node-07","source":"street","label":"siren","group":"alert",'
        '"start":"2026-01-01T12:00:00.100Z","end":"2026-01-01T12:00:07.900Z","duration_s":7.8,'
        '"likelihood_peak":0.91,"likelihood_mean":0.5,"evidence_s":6.25,"end_reason":"quiet",'
        f'"model":{{"name":"edge-l3","version":"1","sha256":"{"ab" * 32}"}},'
        '"quality":{"time_synced":true},"replayed":false,"queued_s":0.0}'
    )


def test_an_event_says_how_loud_it_was() -> None:
    """In decibels of full scale; in sound pressure where it is known how loud full scale is; to a tenth."""
    relative, absolute = (
        told(teller(full_scale_db=full_scale_db), replace(START, level=LEVEL))["level"]
        for full_scale_db in (None, 120.04)
    )

    assert relative == {
        "laeq_db": -20.0,
        "lafmax_db": -10.0,
        "sel_db": -17.0,
        "background_la90_db": -40.0,
        "calibrated": False,
    }
    assert absolute == {
        "laeq_db": 100.0,
        "lafmax_db": 110.0,
        "sel_db": 103.1,
        "background_la90_db": 80.0,
        "calibrated": True,
    }


def test_what_is_not_known_of_a_level_is_left_out() -> None:
    """A background of too few seconds; a level of digital silence is a number, not an infinity."""
    silence = SoundLevel(n_samples=RATE_HZ, mean_square=0.0, fast_max=0.0, background=None)

    message = told(teller(), replace(START, level=silence))

    assert message["level"] == {"laeq_db": -200.0, "lafmax_db": -200.0, "sel_db": -200.0, "calibrated": False}
    assert "level" not in told(teller(), START)


def test_an_open_event_has_no_end_and_says_how_long_it_has_lasted() -> None:
    """While a sound goes on, `end` and `end_reason` are absent, not null, and the duration grows."""
    speaker = teller()

    start, update = told(speaker, START), told(speaker, UPDATE)

    for message in (start, update):
        assert "end" not in message
        assert "end_reason" not in message
    assert (start["event_type"], start["duration_s"]) == ("start", 1.0)
    assert (update["event_type"], update["duration_s"]) == ("update", 10.0)


def test_a_label_without_a_wider_name_has_no_group() -> None:
    """The field is left out, not null."""
    assert "group" not in told(teller(), replace(START, label="crow"))


def test_one_sound_keeps_its_id_and_its_start() -> None:
    """Start, update and end of one sound carry one event_id and one start; the next sound has another id."""
    speaker = teller()

    messages = [told(speaker, event) for event in (START, UPDATE, END)]
    following = told(speaker, replace(START, id=1, onset=960_000, heard_until=1_000_000))

    assert len({message["event_id"] for message in messages}) == 1
    assert len({message["start"] for message in messages}) == 1
    assert following["event_id"] > messages[0]["event_id"]


def test_two_sounds_at_once_do_not_mix() -> None:
    """A siren that begins and ends inside a jackhammer has an event_id of its own."""
    speaker = teller()
    hammer = replace(START, id=1, label="jackhammer")

    ids = [told(speaker, event)["event_id"] for event in (hammer, START, END, replace(END, id=1, label="jackhammer"))]

    assert ids[0] == ids[3]
    assert ids[1] == ids[2]
    assert ids[0] != ids[1]


def test_a_clock_that_is_corrected_while_a_sound_is_open_does_not_stretch_it() -> None:
    """End minus start is the duration that was heard, even if the node learns the time of day in between."""
    correction = timedelta()
    speaker = teller(utc_of=lambda sample: NOON + correction + timedelta(seconds=sample / RATE_HZ))
    start = told(speaker, START)

    correction = timedelta(hours=2)
    end = told(speaker, END)

    assert start["start"] == end["start"]
    assert datetime.fromisoformat(end["end"]) - datetime.fromisoformat(end["start"]) == timedelta(seconds=7.8)


@pytest.mark.parametrize(("onset", "offset"), [(1, 48_001), (23, 100_000), (4_799, 4_848), (71, 2**40)])
def test_end_is_start_plus_duration_to_the_millisecond(onset: int, offset: int) -> None:
    """A reader who subtracts the times gets the duration, whatever was rounded."""
    speaker = teller()
    speaker.tell(replace(START, onset=onset))

    end = told(speaker, replace(END, onset=onset, offset=offset))

    lasted = datetime.fromisoformat(end["end"]) - datetime.fromisoformat(end["start"])
    assert lasted == timedelta(milliseconds=round(end["duration_s"] * 1000))
    assert end["duration_s"] == pytest.approx((offset - onset) / RATE_HZ, abs=0.0005)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5, -0.1])
def test_a_likelihood_that_is_none_is_never_told(value: float) -> None:
    """NaN, infinity and numbers outside [0, 1] do not reach the wire."""
    with pytest.raises(ValidationError):
        teller().tell(replace(START, likelihood_peak=value))


@pytest.mark.parametrize(
    ("synced", "quality"), [(True, {"time_synced": True}), (False, {"time_synced": False}), (None, {})]
)
def test_the_message_says_whether_its_times_can_be_trusted(synced: bool | None, quality: dict[str, bool]) -> None:
    """`time_synced` is told as it is, and left out where nobody can say."""
    assert told(teller(synced=synced), START)["quality"] == quality


def test_what_waited_says_for_how_long() -> None:
    """`queued_s` is what the sender says, to a tenth, and left out where nobody knows."""
    draft = teller().tell(START).payload(1)

    assert json.loads(sent(draft, queued_s=3600.04))["queued_s"] == 3600.0
    assert json.loads(sent(draft, queued_s=0.04))["queued_s"] == 0.0
    assert "queued_s" not in json.loads(sent(draft, queued_s=None))


@pytest.mark.parametrize("synced", [False, None])
def test_what_was_told_before_the_clock_was_set_is_put_right_when_it_is_sent(synced: bool | None) -> None:
    """Once it is known when this boot began, start and end move together, and the time counts as right."""
    speaker = teller(synced=synced)
    drafts = [speaker.tell(event).payload(1) for event in (START, END)]

    still_unset = [json.loads(sent(draft, boots={"an older boot": 1e9})) for draft in drafts]
    start, end = (json.loads(sent(draft, boots={"this boot": NOON.timestamp() + 7200.0004})) for draft in drafts)

    assert [message["quality"].get("time_synced") for message in still_unset] == [synced, synced]
    assert {message["start"] for message in still_unset} == {"2026-01-01T12:00:00.100Z"}
    assert start["start"] == end["start"] == "2026-01-01T14:00:00.100Z"
    assert end["end"] == "2026-01-01T14:00:07.900Z"
    assert start["quality"] == end["quality"] == {"time_synced": True}
    assert start["event_id"] == still_unset[0]["event_id"]
    assert not any("stamp" in message for message in (*still_unset, start, end))


def test_a_sound_that_began_before_the_clock_was_set_is_not_believed_to_its_end() -> None:
    """`time_synced` is about the times in the message: an end that is reckoned from an unset start is no better."""
    synced = False
    speaker = teller()
    speaker._reckon = lambda: Reckoning("this boot", NOON.timestamp(), synced)
    speaker.tell(START)

    synced = True
    end, following = told(speaker, END), told(speaker, replace(START, id=1))

    assert end["quality"] == {"time_synced": False}
    assert following["quality"] == {"time_synced": True}


def test_an_end_after_a_crash_is_put_right_as_well() -> None:
    """What an interrupted event was reckoned by is in its last message, and goes into its end."""
    last = teller(synced=False).tell(START).payload(1)

    worded = interrupted_end(last)
    assert worded is not None
    end = json.loads(sent(worded(2), boots={"this boot": NOON.timestamp() - 60.0}))

    assert (end["start"], end["end"]) == ("2026-01-01T11:59:00.100Z", "2026-01-01T11:59:01.100Z")
    assert end["quality"] == {"time_synced": True}


def test_a_message_of_another_schema_is_completed_as_well() -> None:
    """What else waits in the spool gets `queued_s` and the right time, and is otherwise left as it is."""
    draft = {"schema": "x/1", "start": "2026-01-01T12:00:00.000Z", "n": 1.5, "quality": {"time_synced": False}}

    message = json.loads(
        sent(json.dumps(draft | {"stamp": {"boot": "b", "utc_zero_s": 0.0}}).encode(), boots={"b": 60.0})
    )

    assert message == draft | {
        "start": "2026-01-01T12:01:00.000Z",
        "quality": {"time_synced": True},
        "queued_s": 0.0,
    }


@pytest.mark.parametrize(
    "draft",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"{",
        b'{"stamp":{"boot":"b","utc_zero_s":"x"}}',
        b'{"stamp":{"boot":"b"}}',
        b'{"node":"\\ud83d"}',  # half a character
        b"[" * 100_000,
    ],
    ids=lambda draft: repr(draft[:40]),
)
def test_a_damaged_draft_is_not_sent(draft: bytes) -> None:
    """A bad card does not put rubbish on the wire."""
    assert finished(draft, queued_s=0.0, boots={"b": 0.0}) is None


def test_a_replayed_recording_says_so() -> None:
    """Nobody takes an event from an old recording for one that happens now."""
    assert told(teller(replayed=True), START)["replayed"] is True


def test_an_event_that_a_crash_cut_short_ends_where_it_was_last_heard() -> None:
    """The end told after a crash has the id, start and likelihoods of the last message, and its time as the end."""
    speaker = teller()
    speaker.tell(START)
    last = speaker.tell(UPDATE).payload(2)

    worded = interrupted_end(last)
    assert worded is not None
    end = json.loads(worded(3))

    assert end == json.loads(last) | {
        "seq": 3,
        "event_type": "end",
        "end": "2026-01-01T12:00:10.100Z",
        "end_reason": "interrupted",
    }


def test_ids_are_uuids_of_version_7_that_carry_their_time() -> None:
    """An event_id is a valid UUIDv7 whose first 48 bits are milliseconds since 1970."""
    made = EventIds().new(NOON)

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == int(NOON.timestamp() * 1000)


def test_ids_rise_within_a_process_whatever_the_clock_does() -> None:
    """Sorted by event_id is sorted by when it was made: within a millisecond, and when times go back."""
    ids = EventIds()
    moments = [NOON, NOON, NOON + timedelta(seconds=1), NOON - timedelta(hours=1), NOON, NOON + timedelta(seconds=2)]

    made = [ids.new(moment) for moment in moments for _ in range(100)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_go_on_where_the_random_part_is_used_up() -> None:
    """Even after the largest random number the next id is higher, and of version 7."""
    ids = EventIds(random_bits=lambda bits: (1 << bits) - 1)

    first, second = ids.new(NOON), ids.new(NOON)

    assert second > first
    assert (second.version, second.int >> 80) == (7, (first.int >> 80) + 1)


def test_two_processes_do_not_make_the_same_ids() -> None:
    """Nodes that hear the same bang in the same millisecond give it different ids."""
    assert len({EventIds().new(NOON) for _ in range(1000)}) == 1000


def test_a_finished_event_is_a_row_in_seconds_of_the_file() -> None:
    """`replay` prints seconds from the start of the file, to the millisecond, and no dates that nobody knows."""
    row = finished_event_row(END, sample_rate_hz=RATE_HZ, file="street.wav")

    assert row == {
        "file": "street.wav",
        "label": "siren",
        "onset_s": 0.1,
        "offset_s": 7.9,
        "duration_s": 7.8,
        "likelihood_peak": 0.91,
        "likelihood_mean": 0.5,
        "end_reason": "quiet",
    }


def test_a_finished_event_says_how_loud_it_was() -> None:
    """As its message does."""
    row = finished_event_row(replace(END, level=LEVEL), sample_rate_hz=RATE_HZ, file="street.wav", full_scale_db=120.0)

    assert list(row)[7:] == ["laeq_db", "lafmax_db", "sel_db", "background_la90_db", "calibrated", "end_reason"]
    assert (row["laeq_db"], row["background_la90_db"], row["calibrated"]) == (100.0, 80.0, True)


def test_the_levels_of_a_recording() -> None:
    """Equivalent, largest, and what was exceeded for 10, 50 and 90 % of the time."""
    row = levels_row(STATISTICS, duration_s=12.5, file="street.wav", full_scale_db=100.0)

    assert row == {
        "file": "street.wav",
        "duration_s": 12.5,
        "laeq_db": 73.2,
        "lafmax_db": 83.0,
        "la10_db": 80.0,
        "la50_db": 60.0,
        "la90_db": 60.0,
        "calibrated": True,
    }


def test_a_finished_event_is_dated_where_the_start_of_the_recording_is_known() -> None:
    """With a start time, the row says when the sound was heard as well."""
    row = finished_event_row(END, sample_rate_hz=RATE_HZ, file="street.wav", recording_start=NOON)

    assert (row["start"], row["end"]) == ("2026-01-01T12:00:00.100Z", "2026-01-01T12:00:07.900Z")


def test_what_is_printed_and_what_is_published_end_at_the_same_millisecond() -> None:
    """Whatever the rounding: both end a rounded duration after a rounded onset."""
    rate_hz = 44_100
    for onset, offset in ((10_000 + 7 * n, 55_555 + 13 * n) for n in range(200)):
        event = replace(END, onset=onset, offset=offset)
        speaker = teller(recording_timeline(NOON, rate_hz), sample_rate_hz=rate_hz)
        speaker.tell(replace(START, onset=onset))

        published = told(speaker, event)
        printed = finished_event_row(event, sample_rate_hz=rate_hz, file="street.wav", recording_start=NOON)

        assert [printed[key] for key in ("start", "end", "duration_s")] == [
            published[key] for key in ("start", "end", "duration_s")
        ]


def test_an_open_event_has_no_row() -> None:
    """Only what has ended is printed as finished."""
    with pytest.raises(ValueError, match="state start, expected end"):
        finished_event_row(START, sample_rate_hz=RATE_HZ, file="street.wav")


# Gaps and levels


def test_a_gap_is_told_in_utc_and_adds_up() -> None:
    """Start, end and duration agree to the millisecond, and the spool gives the number."""
    start_ns = round(NOON.timestamp() * 1e9)
    gap = Gap(start_ns + 400_000, start_ns + 2_500_700_000, 2_500_300_000, "device")

    topic, payload = told_gap(gap, topics=TOPICS, source="street", reckoning=Reckoning("boot", 0.0, synced=True))

    assert topic == "urbansound/node-07/street/gap"
    assert (
        json.loads(payload(9))
        == json.loads(finished(payload(9), queued_s=None, boots={}) or b"")
        == {
            "schema": "urbansound.gap/1",
            "seq": 9,
            "node": "node-07",
            "source": "street",
            "start": "2026-01-01T12:00:00.000Z",
            "end": "2026-01-01T12:00:02.501Z",
            "duration_s": 2.501,
            "lost_s": 2.5,
            "cause": "device",
            "quality": {"time_synced": True},
        }
    )


@pytest.mark.parametrize("start_is_right", [False, True])
def test_a_gap_is_put_right_when_the_time_becomes_known(start_is_right: bool) -> None:
    """A node without a clock of its own starts 100 s behind; what another run knew is right already."""
    start_ns = round(NOON.timestamp() * 1e9)
    wrong = Reckoning("this boot", 5000.0, synced=False)
    gap = Gap(start_ns, start_ns + 10 * 10**9, 10 * 10**9, "not_running", start_is_right)
    _, payload = told_gap(gap, topics=TOPICS, source="street", reckoning=wrong)

    as_it_is = json.loads(finished(payload(1), queued_s=0.0, boots={}) or b"")
    later = json.loads(finished(payload(1), queued_s=2.0, boots={"this boot": 5100.0}) or b"")

    assert (as_it_is["quality"], later["quality"]) == ({"time_synced": False}, {"time_synced": True})
    assert as_it_is["duration_s"] == as_it_is["lost_s"] == 10.0
    assert later["end"] == "2026-01-01T12:01:50.000Z"
    assert later["start"] == ("2026-01-01T12:00:00.000Z" if start_is_right else "2026-01-01T12:01:40.000Z")
    assert later["duration_s"] == later["lost_s"] == (110.0 if start_is_right else 10.0)
    assert "stamp" not in later
    assert isinstance(read_message(json.dumps(later).encode()), GapMessage)


def test_the_level_of_a_minute_is_told_in_decibels_and_in_utc() -> None:
    """In sound pressure where that is known, else of full scale."""
    start_ns = round(NOON.timestamp() * 1e9)
    level = IntervalLevel(start_ns, start_ns + 60 * 10**9, STATISTICS, silent_ns=10**8, clipped_ns=2 * 10**9)
    by = Reckoning("boot", 0.0, synced=True)

    (topic, payload), (_, relative) = (
        told_level(level, topics=TOPICS, source="street", reckoning=by, full_scale_db=full_scale_db)
        for full_scale_db in (100.0, None)
    )

    assert topic == "urbansound/node-07/street/level"
    assert json.loads(payload(9)) == {
        "schema": "urbansound.level/1",
        "seq": 9,
        "node": "node-07",
        "source": "street",
        "start": "2026-01-01T12:00:00.000Z",
        "end": "2026-01-01T12:01:00.000Z",
        "duration_s": 60.0,
        "laeq_db": 73.2,
        "lafmax_db": 83.0,
        "la10_db": 80.0,
        "la50_db": 60.0,
        "la90_db": 60.0,
        "calibrated": True,
        "silent_s": 0.1,
        "clipped_s": 2.0,
        "quality": {"time_synced": True},
    }
    uncalibrated = json.loads(relative(9))
    assert (uncalibrated["laeq_db"], uncalibrated["calibrated"]) == (-26.8, False)


def test_a_level_is_put_right_when_the_time_becomes_known() -> None:
    """Start and end move by as much as the clock was wrong."""
    start_ns = round(NOON.timestamp() * 1e9)
    level = IntervalLevel(start_ns, start_ns + 60 * 10**9, STATISTICS, silent_ns=0, clipped_ns=0)
    wrong = Reckoning("this boot", 5000.0, synced=False)
    _, payload = told_level(level, topics=TOPICS, source="street", reckoning=wrong, full_scale_db=None)

    later = json.loads(finished(payload(1), queued_s=2.0, boots={"this boot": 5100.5}) or b"")

    assert (later["start"], later["end"]) == ("2026-01-01T12:01:40.500Z", "2026-01-01T12:02:40.500Z")
    assert (later["duration_s"], later["quality"], "stamp" in later) == (60.0, {"time_synced": True}, False)
    assert isinstance(read_message(json.dumps(later).encode()), LevelMessage)


def test_no_gap_is_sent_that_ends_before_it_began() -> None:
    """Nor where its start is known from before, and the clock, which is behind that, has never been set since."""
    start_ns = round(NOON.timestamp() * 1e9)
    gap = Gap(start_ns, start_ns - 400 * 10**9, 0, "not_running", start_is_right=True)
    _, payload = told_gap(gap, topics=TOPICS, source="street", reckoning=Reckoning("this boot", 5000.0, synced=False))

    sent = json.loads(finished(payload(1), queued_s=0.0, boots={}) or b"")

    assert sent["start"] == sent["end"] == "2026-01-01T12:00:00.000Z"
    assert sent["duration_s"] == sent["lost_s"] == 0.0
