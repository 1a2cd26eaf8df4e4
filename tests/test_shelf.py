"""Promises of `agent.shelf`: the outbox's rows are bounded, whole, and what is read is what was written."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from agent.database import Database
from agent.errors import DatabaseCorruptError, DatabaseUnwritableError
from agent.shelf import KINDS, Changes, Kind, Shelf, SpooledMessage

TOPIC = "urbansound/node-07/street/event"
NOTHING_DROPPED: dict[Kind, int] = dict.fromkeys(KINDS, 0)


def message(seq: int, kind: Kind = "event", text: str = "said") -> SpooledMessage:
    return SpooledMessage(seq, TOPIC, f"{text} {seq}".encode(), KINDS.index(kind), "this boot", float(seq))


def put(shelf: Shelf, *messages: SpooledMessage) -> None:
    changes = Changes(new={one.seq: one for one in messages})
    shelf.write(changes, seq=max(one.seq for one in messages), dropped=shelf.dropped, durable=False)


def seqs_on(shelf: Shelf) -> list[int]:
    return [one.seq for one, _ in shelf.read(1000, after=0, newest=shelf.seq, but_not_to=())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


@pytest.fixture
def shelf(path: Path) -> Iterator[Shelf]:
    opened = Shelf(path, max_messages=10, max_bytes=10_000)
    yield opened
    opened.close()


def test_what_is_written_is_there_after_a_restart(path: Path, shelf: Shelf) -> None:
    """Messages, open events, boots, the count of numbers and of what was dropped."""
    first, second = message(1), message(2, "gap")
    changes = Changes(new={1: first, 2: second}, ledger={"siren": first, "bark": second}, boots={"this boot": 12.5})
    shelf.write(changes, seq=7, dropped=NOTHING_DROPPED | {"level": 3}, durable=True)
    shelf.write(Changes(forgotten={1}, ledger={"siren": None}), seq=7, dropped=shelf.dropped, durable=True)
    shelf.close()

    again = Shelf(path, max_messages=10, max_bytes=10_000)

    assert again.read(10, after=0, newest=7, but_not_to=()) == [(second, True)]
    assert again.read(10, after=0, newest=7, but_not_to=(TOPIC,)) == []
    assert again.ranks([1, 2, 3]) == {2: KINDS.index("gap")}
    assert [(event.event_id, event.payload) for event in again.open_events()] == [("bark", b"said 2")]
    assert shelf.open_ids == again.open_ids == {"bark"}
    assert (again.seq, again.boots, again.dropped) == (7, {"this boot": 12.5}, NOTHING_DROPPED | {"level": 3})
    assert len(again) == 1
    again.close()


def test_a_write_that_fails_changes_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is there, nor what it counts: the same changes are made once the disk takes them."""
    put(shelf, message(1))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "change", fail)
        with pytest.raises(DatabaseUnwritableError):
            shelf.write(Changes(new={2: message(2)}, ledger={"a": message(2)}), seq=2, dropped={}, durable=True)
        assert (seqs_on(shelf), len(shelf), shelf.seq, shelf.dropped) == ([1], 1, 1, NOTHING_DROPPED)

    put(shelf, message(2))

    assert (seqs_on(shelf), len(shelf), shelf.seq) == ([1, 2], 2, 2)


def fail(*_: object) -> int:
    raise DatabaseUnwritableError("the disk is full")


def test_where_there_is_no_room_what_matters_least_goes(shelf: Shelf) -> None:
    """By number, and by size; and it is counted by kind."""
    put(shelf, *(message(seq, "update" if seq % 2 else "event") for seq in range(1, 13)))
    assert seqs_on(shelf) == [2, 4, *range(5, 13)]

    put(shelf, message(13, "event", "x" * 9_800))

    assert seqs_on(shelf) == [6, 8, 10, 12, 13]
    assert shelf.dropped == NOTHING_DROPPED | {"update": 6, "event": 2}


def test_what_has_no_room_under_lower_bounds_goes_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full of messages has no room for a log of half a million that go at once."""
    monkeypatch.setattr("agent.shelf._DISCARDED_AT_ONCE", 3)
    before = Shelf(path, max_messages=1000, max_bytes=10_000)
    put(before, *(message(seq, "update" if seq % 2 else "event") for seq in range(1, 21)))
    before.close()
    shelf = Shelf(path, max_messages=4, max_bytes=10_000)
    write = Mock(wraps=shelf.write)
    monkeypatch.setattr(shelf, "write", write)

    shelf.trim()

    assert write.call_count == 6  # of 10 updates, at most 3 at once, then of 6 events
    assert seqs_on(shelf) == [14, 16, 18, 20]
    assert shelf.dropped == NOTHING_DROPPED | {"update": 10, "event": 6}
    shelf.close()


def test_a_changed_byte_is_seen(path: Path, shelf: Shelf) -> None:
    """SQLite takes it for granted; the checksum does not."""
    put(shelf, message(1), message(2), message(3))
    shelf.close()
    path.write_bytes(path.read_bytes().replace(b"said 2", b"sajd 2"))

    again = Shelf(path, max_messages=10, max_bytes=10_000)

    assert [is_sound for _, is_sound in again.read(10, after=0, newest=3, but_not_to=())] == [True, False, True]
    again.close()


def test_numbers_that_cannot_be_are_damage(shelf: Shelf) -> None:
    """A row whose number was never given is from a page that is not what it was."""
    put(shelf, message(1), message(9))

    with pytest.raises(DatabaseCorruptError, match="is damaged \\(a page is not in order\\)"):
        shelf.read(10, after=0, newest=8, but_not_to=())


def test_numbers_go_on_though_their_count_was_lost(path: Path, shelf: Shelf) -> None:
    """Where a damaged file has given its messages and not its counters, no number comes twice."""
    put(shelf, message(3), message(4))
    with shelf._database.transaction():
        shelf._database.change("DELETE FROM counters")
    shelf.close()

    again = Shelf(path, max_messages=10, max_bytes=10_000)

    assert again.seq == 4
    again.close()


def test_messages_that_have_vanished_are_damage_and_no_endless_search(shelf: Shelf) -> None:
    """What the file has lost behind our back cannot be discarded to make room."""
    put(shelf, *(message(seq) for seq in range(1, 11)))
    with shelf._database.transaction():
        shelf._database.change("DELETE FROM outbox")
    shelf._max_messages = 5

    with pytest.raises(DatabaseCorruptError, match="is damaged \\(messages are missing\\)"):
        shelf.write(Changes(), seq=10, dropped=NOTHING_DROPPED, durable=False)

    shelf.begin_anew("messages are missing")
    assert (len(shelf), shelf.seq) == (0, 10)


def test_the_messages_of_the_first_version_are_taken_over(path: Path) -> None:
    """Whoever updates the agent while messages wait loses none; they count as events."""
    with closing(sqlite3.connect(path)) as first:
        first.executescript(
            """PRAGMA application_id = 0x75736E64; PRAGMA user_version = 1;
            CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
            CREATE TABLE open_events (event_id TEXT PRIMARY KEY, since INTEGER NOT NULL, topic TEXT NOT NULL,
                payload BLOB NOT NULL) STRICT;
            CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
            INSERT INTO counters VALUES ('seq', 5), ('dropped', 0);
            INSERT INTO outbox VALUES (4, 'topic', x'34'), (5, 'topic', x'35');
            INSERT INTO open_events VALUES ('siren', 5, 'topic', x'35');"""
        )

    shelf = Shelf(path, max_messages=10, max_bytes=10_000)

    found = shelf.read(10, after=0, newest=5, but_not_to=())
    assert [(one.seq, one.payload, KINDS[one.rank], is_sound) for one, is_sound in found] == [
        (4, b"4", "event", True),
        (5, b"5", "event", True),
    ]
    assert [event.event_id for event in shelf.open_events()] == ["siren"]
    assert shelf.seq == 5
    shelf.close()
