"""The outbox on disk."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.database import Database
from agent.errors import DatabaseUnwritableError
from agent.shelf import Kind, OpenEvent
from agent.spool import BATCH_MESSAGES, RETRY_S, Spool
from tests.broker import DEADLINE_S
from tests.test_database import syncs_between_marks

TOPIC = "urbansound/node-07/street/event"
FILE_SIZE_LIMIT_BYTES = 2_000_000


def numbered(seq: int) -> bytes:
    return json.dumps({"seq": seq}).encode()


def saying(text: str) -> Callable[[int], bytes]:
    return lambda _: text.encode()


def waiting(spool: Spool) -> list[int]:
    return [message.seq for message in spool.oldest(1_000_000)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path, max_messages=1000) as opened:
        yield opened


def test_messages_come_out_as_they_went_in(spool: Spool) -> None:
    """Oldest first, with the topic and the bytes that were put in."""
    for text in ("first", "second", "third"):
        spool.append(f"{TOPIC}/{text}", saying(text))

    messages = spool.oldest(2)

    assert [(message.topic, message.payload) for message in messages] == [
        (f"{TOPIC}/first", b"first"),
        (f"{TOPIC}/second", b"second"),
    ]
    assert [message.payload for message in spool.oldest(10, after=messages[-1].seq)] == [b"third"]
    assert len(spool) == 3


def test_topics_can_be_left_out(spool: Spool) -> None:
    """While one topic must wait, the messages of the others can be had."""
    for topic in ("a", "b", "c", "a", "b", "c"):
        spool.append(topic, numbered)

    assert [message.topic for message in spool.oldest(10, but_not_to={"a", "c"})] == ["b", "b"]


def test_what_is_forgotten_is_gone_and_the_rest_stays(spool: Spool) -> None:
    """Forgetting takes out exactly what was delivered; what is already gone is no trouble."""
    for _ in range(5):
        spool.append(TOPIC, numbered)

    spool.forget([2, 4])
    spool.forget([2, 4, 99])
    spool.forget([])

    assert waiting(spool) == [1, 3, 5]
    assert len(spool) == 3


def test_messages_survive_a_restart(path: Path) -> None:
    """What waited when the agent stopped waits when it starts."""
    with Spool(path, max_messages=1000) as before:
        for _ in range(3):
            before.append(TOPIC, numbered)
        before.forget([1])

    with Spool(path, max_messages=1000) as after:
        assert [(message.seq, message.payload) for message in after.oldest(10)] == [(2, numbered(2)), (3, numbered(3))]
        assert len(after) == 2


def test_a_number_is_never_given_twice(path: Path) -> None:
    """`seq` goes on over restarts, even where everything had been delivered; consumers may count on it."""
    given = []
    for _ in range(3):
        with Spool(path, max_messages=1000) as spool:
            given += [spool.append(TOPIC, numbered) for _ in range(3)]
            spool.forget(given)

    assert given == list(range(1, 10))


def test_a_message_that_cannot_be_made_leaves_no_trace(spool: Spool) -> None:
    """A failure while a message is put into words neither keeps half of it nor uses up its number."""
    spool.append(TOPIC, numbered)

    def fails(_: int) -> bytes:
        raise ValueError("no words")

    with pytest.raises(ValueError, match="no words"):
        spool.append(TOPIC, fails, event_id="e1")

    assert spool.open_events() == []
    assert spool.append(TOPIC, numbered) == 2
    assert waiting(spool) == [1, 2]


def test_the_oldest_are_asked_for_in_parts(path: Path) -> None:
    """So many, from one number on, up to another: of what is on disk, of what is in memory, and of both."""
    with Spool(path, max_messages=1000) as spool:
        for kind in ("event", "event", "event", "level", "level", "level"):
            spool.append(TOPIC, numbered, kind=kind)
        assert spool.unsaved == 3

        assert [one.seq for one in spool.oldest(2)] == [1, 2]
        assert [one.seq for one in spool.oldest(5)] == [1, 2, 3, 4, 5]
        assert [one.seq for one in spool.oldest(10, until=2)] == [1, 2]
        assert [one.seq for one in spool.oldest(10, after=1, until=5)] == [2, 3, 4, 5]
        assert [one.seq for one in spool.oldest(2, after=2)] == [3, 4]


def test_a_full_spool_drops_the_oldest_and_counts_them(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bounded: beyond the limit the oldest make room, the loss is counted over restarts, and the log says so."""
    with Spool(path, max_messages=100) as spool:
        for _ in range(130):
            spool.append(TOPIC, numbered)
        assert waiting(spool) == list(range(31, 131))
        assert (len(spool), spool.dropped) == (100, 30)

    with Spool(path, max_messages=100) as spool:
        spool.append(TOPIC, numbered)
        assert (len(spool), spool.dropped) == (100, 31)

    assert "spool.dropped messages=1 level=0 update=0 gap=0 event=1" in caplog.text
    assert len(caplog.records) == 2  # once in each life, not once for each message


def test_levels_are_dropped_before_updates_and_events_last(path: Path) -> None:
    """Where there is no room, the oldest of what matters least goes, whatever its age beside the rest."""
    kinds: list[Kind] = ["event", "gap", "level", "update", "event", "level", "gap", "update"]
    left: list[list[str]] = []
    with Spool(path, max_messages=len(kinds)) as spool:
        for kind in kinds:
            spool.append(TOPIC, saying(kind), kind=kind)
        for _ in kinds:
            spool.append(TOPIC, saying("new"), kind="event")
            left.append([message.payload.decode() for message in spool.oldest(100) if message.payload != b"new"])

        assert left == [
            ["event", "gap", "update", "event", "level", "gap", "update"],
            ["event", "gap", "update", "event", "gap", "update"],
            ["event", "gap", "event", "gap", "update"],
            ["event", "gap", "event", "gap"],
            ["event", "event", "gap"],
            ["event", "event"],
            ["event"],
            [],
        ]
        assert spool.discarded == {"level": 2, "update": 2, "gap": 2, "event": 2}


def test_a_level_does_not_push_out_an_event(path: Path) -> None:
    """In a spool full of events a level is dropped at once."""
    with Spool(path, max_messages=10) as spool:
        for _ in range(10):
            spool.append(TOPIC, numbered)
        for _ in range(BATCH_MESSAGES):
            spool.append(TOPIC, numbered, kind="level")

        assert waiting(spool) == list(range(1, 11))
        assert spool.discarded["level"] == BATCH_MESSAGES


def test_bytes_are_bounded_as_well(path: Path) -> None:
    """Few long messages fill the spool like many short ones; no more of them go than must."""
    with Spool(path, max_messages=1000, max_bytes=10_000) as spool:
        for _ in range(50):
            spool.append("t", saying("x" * 999))
        assert waiting(spool) == list(range(41, 51))
        spool.append("t", saying("x" * 5499))
        assert waiting(spool) == list(range(47, 52))
        assert spool.dropped == 46

    with Spool(path, max_messages=1000, max_bytes=10_000) as spool:
        spool.append("t", saying("x" * 999))
        assert (waiting(spool), spool.dropped) == (list(range(48, 53)), 47)


def test_what_is_too_old_is_dropped_where_its_age_is_known(path: Path) -> None:
    """By UTC where the boot in which it was made knew it. What has no age is as old as what came after it."""
    now_s = 0.0

    def boots(boot: str) -> Spool:
        return Spool(path, max_messages=1000, boot=boot, monotonic=lambda: now_s)

    for boot, began_s in (("first", 1000.0), ("ageless", None), ("second", 5000.0), ("ageless too", None)):
        with boots(boot) as spool:
            for _ in range(3):
                spool.append(TOPIC, numbered)
                now_s += 10.0
            if began_s is not None:
                spool.note_boot(boot, began_s)
        now_s = 0.0

    with boots("third") as spool:
        assert dict(spool.boots) == {"first": 1000.0, "second": 5000.0}
        spool.discard_older(1009.0)
        assert waiting(spool) == list(range(2, 13))
        spool.discard_older(4000.0)
        assert waiting(spool) == list(range(4, 13))
        spool.discard_older(5015.0)
        assert waiting(spool) == list(range(9, 13))
        spool.discard_older(1e9)
        assert waiting(spool) == [10, 11, 12]
        assert spool.discarded["event"] == 9


def test_a_smaller_limit_takes_effect_at_the_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who lowers `max_messages` gets what he asked for, before anybody listens: of many messages it takes minutes."""
    with Spool(path, max_messages=1000) as spool:
        for _ in range(50):
            spool.append(TOPIC, numbered)

    with Spool(path, max_messages=10) as spool:
        assert (waiting(spool), len(spool), spool.dropped) == (list(range(41, 51)), 10, 40)
        assert "spool.dropped messages=40 level=0 update=0 gap=0 event=40" in caplog.text
        spool.append(TOPIC, numbered)

        assert (waiting(spool), spool.dropped) == (list(range(42, 52)), 41)


def test_events_without_an_end_are_known_after_a_crash(path: Path) -> None:
    """The ledger holds the last message of each event that was begun and not ended, delivered or not."""
    with Spool(path, max_messages=1000) as spool:
        spool.append(TOPIC, saying("siren starts"), event_id="siren")
        spool.append(TOPIC, saying("hammer starts"), event_id="hammer")
        spool.append(TOPIC, saying("bark starts"), event_id="bark")
        spool.append(TOPIC, saying("siren goes on"), event_id="siren")
        spool.append(TOPIC, saying("bark ends"), event_id="bark", ends=True)
        spool.append(TOPIC, saying("no event"))
        spool.forget(waiting(spool))

    with Spool(path, max_messages=1000) as spool:
        assert spool.open_events() == [
            OpenEvent("siren", TOPIC, b"siren goes on"),
            OpenEvent("hammer", TOPIC, b"hammer starts"),
        ]

        for event in spool.open_events():
            spool.append(event.topic, saying("interrupted"), event_id=event.event_id, ends=True)

        assert spool.open_events() == []


APPENDS_UNTIL_KILLED = """
import sys
from pathlib import Path
from agent.spool import Spool
spool = Spool(Path(sys.argv[1]), max_messages=1_000_000)
while True:
    seq = spool.append("topic", lambda seq: b"message %d" % seq)
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


def test_every_message_that_was_appended_survives_kill_9(path: Path) -> None:
    """After kill -9 in the middle of appending, each message whose append had returned is there once, in order.

    Five times over: the spool also survives being opened after a crash.
    """
    told: list[int] = []
    for n_killed in range(1, 6):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDS_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        returned = [int(child.stdout.readline()) for _ in range(100)]
        child.kill()
        returned += [int(line) for line in child.stdout]
        child.wait(DEADLINE_S)
        child.stdout.close()

        with Spool(path, max_messages=1_000_000) as spool:
            kept = spool.oldest(1_000_000)

        told += returned
        there = [message.seq for message in kept]
        assert there == sorted(set(there))
        assert set(told) <= set(there)
        # The one that was being appended may be there as well: it was on disk, and the child could not say so.
        assert len(there) <= len(told) + n_killed
        assert all(message.payload == b"message %d" % message.seq for message in kept)


WORKS_WITH_A_FULL_DISK = """
import resource, signal, sys, json
from pathlib import Path
from agent.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
now_s = 0.0
def monotonic():
    global now_s
    now_s += 0.5
    return now_s
spool = Spool(Path(sys.argv[1]), max_messages=1_000_000, monotonic=monotonic)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))
def say(**what):
    print(json.dumps(what), flush=True)
while not spool.unsaved:
    last = spool.append("topic", lambda seq: b"x" * 1000, event_id="opened before", ends=False)
say(last=last, trouble=spool.trouble, waits=len(spool))
for _ in range(50):
    spool.append("topic", lambda seq: b"in memory %d" % seq, event_id="opened meanwhile")
say(unsaved=spool.unsaved, waits=len(spool), can_be_sent=len(spool.oldest(100_000)))
delivered = [message.seq for message in spool.oldest(100_000)]
delivered = delivered[:10] + delivered[-10:]
spool.forget(delivered)
spool.forget(delivered)
say(delivered=delivered, waits=len(spool), offered=[m.seq for m in spool.oldest(100_000) if m.seq in delivered])
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
if sys.argv[3] == "room":
    while spool.trouble:
        spool.save()
    say(unsaved=spool.unsaved, waits=len(spool))
import os
os.kill(os.getpid(), signal.SIGKILL)
"""


def with_a_full_disk(path: Path, then: str) -> list[dict[str, Any]]:
    child = subprocess.run(
        [sys.executable, "-c", WORKS_WITH_A_FULL_DISK, str(path), str(FILE_SIZE_LIMIT_BYTES), then],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stderr.count("spool.unwritable") == 1
    return [json.loads(line) for line in child.stdout.splitlines()]


def test_while_the_disk_is_full_messages_wait_in_memory_and_are_written_when_there_is_room(path: Path) -> None:
    """A disk that takes nothing for a while loses nothing: what was delivered from memory is not kept, the rest is."""
    full, filled, delivered, saved = with_a_full_disk(path, "room")

    assert f"spool {path}: cannot be used (" in full["trouble"]
    assert full["last"] > 50
    assert filled == {"unsaved": 51, "waits": full["last"] + 50, "can_be_sent": full["last"] + 50}
    assert (delivered["waits"], delivered["offered"]) == (full["last"] + 30, [])
    assert saved == {"unsaved": 0, "waits": full["last"] + 30}
    with Spool(path, max_messages=1_000_000) as spool:
        everything = set(range(1, full["last"] + 51))
        assert waiting(spool) == sorted(everything - set(delivered["delivered"]))
        assert [event.event_id for event in spool.open_events()] == ["opened before", "opened meanwhile"]
        assert spool.append(TOPIC, numbered) > full["last"] + 50


def test_a_kill_while_the_disk_is_full_costs_what_was_in_memory_alone(path: Path) -> None:
    """What had been written before is there, in order and whole; what had been delivered meanwhile comes again."""
    full, *_ = with_a_full_disk(path, "killed")

    with Spool(path, max_messages=1_000_000) as spool:
        assert waiting(spool) == list(range(1, full["last"]))


STARTS_WITH_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from agent.spool import RETRY_S, Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
spool = Spool(Path(sys.argv[1]), max_messages=1000)
assert spool.open_events() == []
for _ in range(3):
    spool.append("topic", lambda seq: b"message %d" % seq)
print([message.seq for message in spool.oldest(10)], spool.unsaved, spool.trouble is not None, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
spool._tried_s = -RETRY_S
spool.save()
print(spool.unsaved, spool.append("topic", lambda seq: b"message %d" % seq), flush=True)
spool.close()
"""


@pytest.mark.parametrize("before", ["nothing", "rubbish", "another version"])
def test_a_disk_that_is_full_from_the_start_is_waited_for(path: Path, before: str) -> None:
    """The very first start, or one with a file that must be made anew, on a full disk: the agent begins in memory.

    Its numbers are higher than any in the file that it cannot read: what waits there is not overwritten. They go on
    from there once the file can be written.
    """
    n_before = 0
    if before == "rubbish":
        path.write_bytes(b"rubbish" * 1000)
    elif before == "another version":
        with Spool(path, max_messages=1000) as spool:
            n_before = spool.append(TOPIC, saying("before"))
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 1")
    child = subprocess.run(
        [sys.executable, "-c", STARTS_WITH_A_FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    numbers, later = child.stdout.splitlines()
    first = json.loads(numbers.split("]")[0] + "]")[0]
    assert first > 100 * datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert numbers == f"[{first}, {first + 1}, {first + 2}] 3 True"
    assert later == f"0 {first + 3}"
    with Spool(path, max_messages=1000) as spool:
        kept = {message.seq: message.payload for message in spool.oldest(10)}
    expected = {seq: b"message %d" % seq for seq in range(first, first + 4)}
    assert kept == dict.fromkeys(range(1, n_before + 1), b"before") | expected


def test_a_clock_that_is_not_set_makes_no_number_that_may_have_been_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that starts in 1970 on a disk that takes nothing still counts on from above what the file may hold."""
    monkeypatch.setattr("agent.spool.utc_now", lambda: datetime(1970, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("agent.spool.Shelf", unwritable)

    seq = Spool(path, max_messages=1000).append(TOPIC, numbered)

    assert seq > 100 * datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_memory_has_its_bound_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes nothing for long, the least goes first from memory as well, and is counted."""
    monkeypatch.setattr("agent.spool.MAX_UNSAVED_BYTES", 10_000)
    with Spool(path, max_messages=1000) as spool:
        monkeypatch.setattr(Database, "transaction", unwritable)
        for kind in ("event", "update", "event"):
            for _ in range(5):
                spool.append("t", saying("x" * 999), kind=kind)

        assert waiting(spool) == [*range(1, 6), *range(11, 16)]
        assert spool.discarded["update"] == 5
        spool.append("t", saying("x" * 999))
        assert waiting(spool) == [*range(2, 6), *range(11, 17)]
        monkeypatch.undo()
        spool._tried_s = -RETRY_S
        spool.save()
        assert (spool.trouble, spool.unsaved, len(spool)) == (None, 0, 10)

    with Spool(path, max_messages=1000) as spool:
        assert spool.discarded == {"level": 0, "update": 5, "gap": 0, "event": 1}


def test_events_that_come_and_go_while_the_disk_takes_nothing_leave_nothing_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that is read-only for months costs no memory for each event; one that was open before is ended later."""
    with Spool(path, max_messages=1000) as spool:
        spool.append(TOPIC, saying("start"), event_id="open before")
        monkeypatch.setattr(Database, "transaction", unwritable)
        for number in range(100):
            start = spool.append(TOPIC, saying("start"), event_id=f"event {number}")
            end = spool.append(TOPIC, saying("end"), event_id=f"event {number}", ends=True)
            spool.forget([start, end])
        spool.append(TOPIC, saying("end"), event_id="open before", ends=True)
        spool.append(TOPIC, saying("start"), event_id="open now")

        assert spool._changes.ledger.keys() == {"open before", "open now"}
        monkeypatch.undo()
        spool._tried_s = -RETRY_S
        spool.save()
        assert [event.event_id for event in spool.open_events()] == ["open now"]


def unwritable(*_: object, **__: object) -> None:
    raise DatabaseUnwritableError("the disk is full")


def test_a_level_that_is_delivered_at_once_never_wears_the_card(path: Path) -> None:
    """Levels wait in memory for up to ten seconds; those that nobody took by then are written together."""
    now_s = 0.0
    with Spool(path, max_messages=1000, monotonic=lambda: now_s) as spool:
        for _ in range(20):
            seq = spool.append(TOPIC, numbered, kind="level")
            assert waiting(spool) == [seq]
            spool.forget([seq])
            now_s += 1.0
        assert saved_in(path) == 0

        for _ in range(11):
            spool.append(TOPIC, numbered, kind="level")
            now_s += 1.0
        assert (spool.unsaved, len(spool)) == (0, 11)
        assert saved_in(path) == 11
        spool.append(TOPIC, numbered, kind="level")
        assert spool.unsaved == 1
        spool.append(TOPIC, numbered, kind="event")
        assert spool.unsaved == 0, "an event takes along what waits"


def saved_in(path: Path) -> int:
    """How many messages a copy of the file holds, taken now, as a power cut would leave it."""
    copy = path.with_name("copy.sqlite")
    for beside in ("", "-wal"):
        copy.with_name(copy.name + beside).write_bytes(path.with_name(path.name + beside).read_bytes())
    with Spool(copy, max_messages=1000) as spool:
        return len(spool)


FORGETS_UNTIL_KILLED = """
import sys
from pathlib import Path
from agent.spool import Spool
spool = Spool(Path(sys.argv[1]), max_messages=1_000_000)
while True:
    for kind in ("event", "update", "gap"):
        seq = spool.append("topic", lambda seq: b"message %d" % seq, kind=kind)
        print(seq, flush=True)
    spool.forget([seq])
    print(-seq, flush=True)
"""


def test_after_kill_9_nothing_is_missing_and_nothing_comes_back(path: Path) -> None:
    """What was appended is there, whatever its kind but `level`; what was forgotten is not, though not synced."""
    child = subprocess.Popen([sys.executable, "-c", FORGETS_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(200)]
    child.kill()
    said += [int(line) for line in child.stdout]
    child.wait(DEADLINE_S)
    child.stdout.close()
    appended = {number for number in said if number > 0}
    forgotten = {-number for number in said if number < 0}

    with Spool(path, max_messages=1_000_000) as spool:
        left = set(waiting(spool))

    # What the child was doing when it was killed may be done, and it could not say so.
    assert appended - forgotten - left <= {max(appended)}
    assert left - (appended - forgotten) <= {max(appended) + 1}


def test_an_event_costs_one_sync_and_nothing_else_any(path: Path) -> None:
    """A start and an end are synced once each; updates, gaps, levels and forgetting are not."""
    script = (
        "import sys; from pathlib import Path; from agent.spool import Spool; from tests.test_spool import numbered\n"
        "spool = Spool(Path(sys.argv[1]), max_messages=1000); spool.append('t', numbered)\n"
        "print('mark', flush=True)\n"
        "for _ in range(10): spool.append('t', numbered)\n"
        "print('mark', flush=True)\n"
        "for kind in ('update', 'gap', 'level'):\n"
        "    for _ in range(20): spool.append('t', numbered, kind=kind)\n"
        "for seq in range(1, 60): spool.forget([seq])\n"
        "print('mark', flush=True)\n"
    )

    assert syncs_between_marks(script, path) == [10, 0]


def test_an_event_that_waited_for_the_disk_is_synced_whatever_brings_it_there(path: Path) -> None:
    """Once there is room again, an update and a message that is forgotten bring it along: a power cut costs nothing."""
    script = (
        "import sys; from pathlib import Path; from agent.database import Database; from agent.spool import *\n"
        "from tests.test_spool import numbered, unwritable\n"
        "spool = Spool(Path(sys.argv[1]), max_messages=1000); room = Database.transaction\n"
        "for bring in (lambda: spool.append('t', numbered, kind='update'), lambda: spool.forget([1])):\n"
        "    spool.append('t', numbered); Database.transaction = unwritable; spool.append('t', numbered)\n"
        "    Database.transaction = room; spool._tried_s = -RETRY_S\n"
        "    print('mark', flush=True)\n"
        "    bring()\n"
        "    print('mark', flush=True); assert spool.unsaved == 0\n"
    )

    assert syncs_between_marks(script, path) == [1, 1, 1]  # the one between is the first event of the second round


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_spool_is_left_behind_and_what_it_gives_was_put_in(path: Path, seed: int) -> None:
    """Whatever a bad card did: the spool opens, no message is changed, and none comes that was never appended."""
    dice = random.Random(seed)
    with Spool(path, max_messages=100_000) as spool:
        for number in range(1, 401):
            spool.append(
                TOPIC, lambda seq: b"message %d " % seq + b"x" * (seq % 300), kind="event", event_id=f"{number}"
            )
            if number == 300:
                spool.forget(range(1, 100))
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 3, 30])):
        at = dice.randrange(len(content))
        content[at] ^= 1 << dice.randrange(8)
    if seed % 3 == 0:
        del content[dice.randrange(len(content)) :]
    path.write_bytes(content)

    with Spool(path, max_messages=100_000) as spool:
        messages = spool.oldest(100_000)
        seq = spool.append(TOPIC, numbered)

        assert all(
            (message.topic, message.payload) == (TOPIC, b"message %d " % message.seq + b"x" * (message.seq % 300))
            for message in messages
        )
        assert {message.seq for message in messages} <= set(range(1, 401))
        assert seq > max((message.seq for message in messages), default=0)
        spool.forget([message.seq for message in messages])
        assert waiting(spool) == [seq]


def test_a_file_that_breaks_at_work_does_not_stop_the_work(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage that shows while the agent runs: it goes on in a fresh file with what can be read, and loses no number."""
    with Spool(path, max_messages=1_000_000) as spool:
        for _ in range(2000):
            spool.append(TOPIC, lambda seq: b"message %d" % seq + b"x" * 500, kind="update")
        spool._shelf._database.rows("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 40_000] = b"\xa5" * 40_000
        path.write_bytes(content)
        spool._shelf._database.rows("PRAGMA shrink_memory")  # type: ignore[union-attr]

        spool.oldest(10_000)
        messages = spool.oldest(10_000)
        seq = spool.append(TOPIC, numbered)

        assert seq > 2000
        assert 1500 < len(messages) < 2000
        assert all(message.payload == b"message %d" % message.seq + b"x" * 500 for message in messages)
        assert len(spool) == len(messages) + 1
    assert "spool.damaged" in caplog.text
    assert path.with_name(f"{path.name}.aside-1").exists()


def test_a_message_that_was_changed_on_the_card_is_not_sent(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One changed byte in a text is no damage to SQLite, and would be a lie to the broker: dropped and counted."""
    with Spool(path, max_messages=1000) as spool:
        for text in ("first", "second", "third"):
            spool.append(TOPIC, saying(text * 10))
    path.write_bytes(path.read_bytes().replace(b"secondsecond", b"secondsecomd"))

    with Spool(path, max_messages=1000) as spool:
        assert [message.payload[:5] for message in spool.oldest(2)] == [b"first", b"third"]
        assert (len(spool), spool.dropped) == (2, 1)
        spool.append(TOPIC, numbered)
        assert waiting(spool) == [1, 3, 4]
    assert "spool.damaged_message seq=2" in caplog.text


def test_a_message_knows_when_it_was_made(path: Path) -> None:
    """By the monotonic clock of its boot, over restarts of the agent."""
    now_s = 12.5
    with Spool(path, max_messages=1000, boot="one", monotonic=lambda: now_s) as spool:
        spool.append(TOPIC, numbered)
    now_s = 2.5
    with Spool(path, max_messages=1000, boot="two", monotonic=lambda: now_s) as spool:
        spool.append(TOPIC, numbered)

        assert [(message.boot, message.made_s) for message in spool.oldest(10)] == [("one", 12.5), ("two", 2.5)]


def test_the_publisher_is_told_after_the_message_can_be_had(spool: Spool) -> None:
    """Who is woken by an append finds the message."""
    found: list[list[int]] = []
    spool.on_append(lambda: found.append(waiting(spool)))

    spool.append(TOPIC, numbered)
    spool.append(TOPIC, numbered)
    spool.on_append(None)
    spool.append(TOPIC, numbered)

    assert found == [[1], [1, 2]]


def test_two_threads_can_use_it_at_once(spool: Spool) -> None:
    """While the pipeline appends, the publisher takes out: nothing is lost, nothing comes twice."""
    taken: list[int] = []
    done = threading.Event()

    def publish() -> None:
        while not done.is_set() or len(spool) > 0:
            messages = spool.oldest(7)
            spool.forget([message.seq for message in messages])
            taken.extend(message.seq for message in messages)

    publisher = threading.Thread(target=publish)
    publisher.start()
    for _ in range(500):
        spool.append(TOPIC, numbered)
    done.set()
    publisher.join(DEADLINE_S)

    assert taken == list(range(1, 501))
    assert (len(spool), waiting(spool)) == (0, [])


def test_counters_that_a_bad_card_has_changed_are_begun_anew(path: Path) -> None:
    """The count goes on after the highest number that waits, and messages can be appended."""
    with Spool(path, max_messages=1000) as before:
        for _ in range(3):
            before.append(TOPIC, numbered)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE counters SET name = 's' WHERE name = 'seq'")

    with Spool(path, max_messages=1000) as after:
        assert after.append(TOPIC, numbered) == 4


KILLED_WITH_A_MESSAGE_IN_MEMORY = """
import os, signal, sys
from pathlib import Path
from agent.spool import Spool
spool = Spool(Path(sys.argv[1]), max_messages=1000)
for kind in ("event", "update", "level", "level"):
    seq = spool.append("topic", lambda _: b"told", kind=kind)
print(seq, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_number_comes_twice_after_a_kill(path: Path) -> None:
    """A level that was sent from memory dies with the agent; its number is never given to another message.

    A subscriber that keeps the numbers it has seen would take the second one for a repetition.
    """
    seen = 0
    for _ in range(3):
        child = subprocess.run(
            [sys.executable, "-c", KILLED_WITH_A_MESSAGE_IN_MEMORY, str(path)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        with Spool(path, max_messages=1000) as spool:
            next_seq = spool.append(TOPIC, numbered)

        assert next_seq > int(child.stdout) > seen
        seen = next_seq


def test_after_an_orderly_end_no_number_is_skipped(path: Path) -> None:
    """Numbers rise by one over restarts, as long as nobody is killed."""
    for expected in (1, 2, 3):
        with Spool(path, max_messages=1000) as spool:
            assert spool.append(TOPIC, numbered, kind="level") == expected


def test_how_many_wait_is_asked_while_others_change_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread is not kept waiting: in the middle of a change it gets what was before."""
    for _ in range(3):
        spool.append(TOPIC, numbered)
    shelf = spool._shelf
    assert shelf is not None
    write, seen = shelf.write, []

    def watched(*arguments: Any, **more: Any) -> None:  # noqa: ANN401  what `write` takes
        write(*arguments, **more)
        seen.append(len(spool))

    monkeypatch.setattr(shelf, "write", watched)

    spool.forget([1, 2, 3])
    spool.append(TOPIC, numbered)

    assert seen == [3, 0]
    assert len(spool) == 1
