"""Promises of `agent.wire`: topics and schemas, and what readers make of a payload."""

import json
from datetime import timedelta
from uuid import UUID

import pytest

from agent.clock import Reckoning
from agent.messages import told_gap
from agent.values import Gap
from agent.wire import (
    AcceleratorInfo,
    EventMessage,
    InfoMessage,
    SourceInfo,
    Topics,
    read_message,
    watched_topics,
)
from tests.test_messages import MODEL, NOON, START, TOPICS, sent, teller, told


def test_topics_are_where_the_documentation_says() -> None:
    """Status, info and events have their places."""
    topics = Topics("city/noise", "node-07")

    assert topics.status == "city/noise/node-07/status"
    assert topics.info == "city/noise/node-07/info"
    assert topics.event("street") == "city/noise/node-07/street/event"
    assert topics.level("street") == "city/noise/node-07/street/level"


def test_who_watches_hears_of_events_gaps_levels_and_health() -> None:
    """The filters are those of what happens, not of what is retained."""
    assert watched_topics("city") == ("city/+/+/event", "city/+/+/gap", "city/+/+/level", "city/+/health")


def test_info_says_what_the_node_is_and_leaves_out_what_it_does_not_know_yet() -> None:
    """The capture rate appears once the microphone is open."""
    info = InfoMessage(
        accelerator=AcceleratorInfo(name="cpu", asked="auto", reason="no accelerator is there"),
        node="node-07",
        started=NOON,
        agent_version="0.1.0",
        model=MODEL,
        labels=("siren", "jackhammer"),
        config_sha256="cd" * 32,
        sources=(SourceInfo(id="street"), SourceInfo(id="yard", sample_rate_hz=48_000)),
    )

    message = json.loads(info.to_json())

    assert message["schema"] == "urbansound.info/1"
    assert message["started"] == "2026-01-01T12:00:00.000Z"
    assert message["sources"] == [{"id": "street"}, {"id": "yard", "sample_rate_hz": 48_000}]


def test_a_reader_gets_back_what_was_told() -> None:
    """An event that is read from the wire is the event that was told, to the byte."""
    payload = sent(teller().tell(START).payload(7), queued_s=12.34)

    event = read_message(payload)

    assert isinstance(event, EventMessage)
    assert isinstance(event.event_id, UUID)
    assert (event.seq, event.label, event.start) == (7, "siren", NOON + timedelta(seconds=0.1))
    assert event.queued_s == 12.3
    assert event.to_json() == payload


def test_a_reader_has_all_times_in_utc() -> None:
    """RFC 3339 allows an offset, and other publishers may use it; what UTC cannot name is not a moment."""
    message = told(teller(), START)

    event = read_message(json.dumps(message | {"start": "2026-01-01T14:00:00.100+02:00"}).encode())

    assert isinstance(event, EventMessage)
    assert f"{event.start:%H:%M:%S.%f}" == "12:00:00.100000"
    assert read_message(json.dumps(message | {"start": "0001-01-01T00:00:00+02:00"}).encode()) is None


def test_a_reader_of_today_understands_what_a_newer_agent_adds() -> None:
    """Unknown fields are skipped; that is what lets a schema grow."""
    message = told(teller(), START)

    assert read_message(json.dumps(message | {"weather": {"wind": True}}).encode()) is not None


@pytest.mark.parametrize(
    "payload", [b"", b"online", b"\xff\xfe", b"{}", b"[1]", b'{"schema":"urbansound.event/2"}', b"null"]
)
def test_what_is_not_ours_is_not_taken_for_it(payload: bytes) -> None:
    """Other people's messages on our topics are no trouble."""
    assert read_message(payload) is None


def test_a_reader_tells_messages_apart() -> None:
    """Events, gaps and health are read as what they are; another schema is none of them."""
    by = Reckoning("boot", 0.0, synced=True)
    _, gap = told_gap(Gap(0, 10**9, 10**9, "dropped"), topics=TOPICS, source="street", reckoning=by)
    event = teller().tell(START).payload(7)

    read = [read_message(payload) for payload in (gap(1), event)]

    assert [type(message).__name__ for message in read] == ["GapMessage", "EventMessage"]
    assert read_message(gap(1).replace(b"gap/1", b"gap/2")) is None
    assert read_message(b"online") is None
