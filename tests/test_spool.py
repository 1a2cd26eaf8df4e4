"""The outbox on disk."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.spool import OpenEvent, Spool
from tests.broker import DEADLINE_S

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

    assert "spool.full max_messages=100 dropped=1" in caplog.text
    assert len(caplog.records) == 2  # once in each life, not once for each message


def test_a_smaller_limit_takes_effect_with_the_next_message(path: Path) -> None:
    """Who lowers `max_messages` gets what he asked for."""
    with Spool(path, max_messages=1000) as spool:
        for _ in range(50):
            spool.append(TOPIC, numbered)

    with Spool(path, max_messages=10) as spool:
        spool.append(TOPIC, numbered)

        assert waiting(spool) == list(range(42, 52))
        assert spool.dropped == 41


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
    for _ in range(5):
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

        # The one that was being appended may be there as well: it was on disk, and the child could not say so.
        assert [message.seq for message in kept] in (
            list(range(1, returned[-1] + 1)),
            list(range(1, returned[-1] + 2)),
        )
        assert all(message.payload == b"message %d" % message.seq for message in kept)


APPENDS_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
from agent.errors import DatabaseError
from agent.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]), max_messages=1_000_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
returned = 0
try:
    while True:
        returned = spool.append("topic", lambda seq: b"x" * 1000)
except DatabaseError as error:
    print(returned, len(spool))
    print(error, flush=True)
"""


def test_a_disk_that_takes_no_more_is_said_and_loses_nothing(path: Path) -> None:
    """When a write fails, the agent is told which file and why, and all messages appended before are still there."""
    child = subprocess.run(
        [sys.executable, "-c", APPENDS_UNTIL_FULL, str(path), str(FILE_SIZE_LIMIT_BYTES)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    counts, error = child.stdout.splitlines()

    assert error.startswith(f"spool {path}: cannot be used (")
    with Spool(path, max_messages=1_000_000) as spool:
        assert counts == f"{len(spool)} {len(spool)}"
        assert waiting(spool) == list(range(1, len(spool) + 1))
        assert len(spool) > 50


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
