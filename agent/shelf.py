"""The outbox on disk: messages that wait, events that are open, and what was counted. Bounded.

In: changes, of which all are made or none. Out: messages. What is read is checked: SQLite knows when a page cannot be
right, not when a byte in a text has changed. Not safe for threads: `spool` holds a lock, and knows what to do when the
disk takes nothing or the file is damaged.
"""

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.database import Database, Layout
from agent.errors import DatabaseCorruptError, DatabaseError

Kind = Literal["level", "update", "gap", "event"]
KINDS: tuple[Kind, ...] = ("level", "update", "gap", "event")  # in the order in which they are discarded

AT_ONCE = 500  # numbers in one statement

_EVENT = KINDS.index("event")
_MAX_SEQ = 1 << 40  # a thousand messages a second for thirty years; what is higher is damage
_LAYOUT = Layout(
    name="spool",
    application_id=0x75736E64,  # "usnd", so that nobody else's database is taken for a spool
    version=2,
    schema=f"""
CREATE TABLE outbox (seq INTEGER PRIMARY KEY CHECK (seq BETWEEN 1 AND {_MAX_SEQ}), topic TEXT NOT NULL,
    payload BLOB NOT NULL, rank INTEGER NOT NULL DEFAULT {_EVENT} CHECK (rank BETWEEN 0 AND {_EVENT}),
    boot TEXT NOT NULL DEFAULT '', made_s REAL NOT NULL DEFAULT 0, checksum INTEGER) STRICT;
CREATE INDEX least ON outbox (rank, seq) WHERE rank < {_EVENT};
CREATE TABLE open_events (event_id TEXT PRIMARY KEY, since INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL)
    STRICT;
CREATE TABLE boots (boot TEXT PRIMARY KEY, utc_zero_s REAL NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL CHECK (value BETWEEN 0 AND {_MAX_SEQ})) STRICT;
""",
)
_SIZE = "coalesce(length(CAST(topic AS BLOB)) + length(payload), 0)"
_RANK = f"coalesce(max(0, min({_EVENT}, rank)), {_EVENT})"  # of a damaged page anything may come
_PARTS = (int, str, bytes, int, str, float)  # of a message; of a damaged page anything may come
_KEPT_BOOTS = 100
_DISCARDED_AT_ONCE = 5000  # some megabytes


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """A message that the broker does not have yet.

    Attributes:
        seq: its number, which rises and is never used again.
        topic: where it goes.
        payload: what it says.
        rank: of its kind, in `KINDS`.
        boot: of the machine, when it was made; empty where nobody said.
        made_s: when it was made, in monotonic seconds of that boot.
    """

    seq: int
    topic: str
    payload: bytes
    rank: int
    boot: str
    made_s: float

    @property
    def size_bytes(self) -> int:
        """As `max_bytes` counts."""
        return len(self.topic.encode()) + len(self.payload)

    @property
    def checksum(self) -> int:
        """Tells whether a bad card changed it."""
        return zlib.crc32(self.payload, zlib.crc32(self.topic.encode()))


@dataclass(frozen=True, slots=True)
class OpenEvent:
    """An event of which no end has been appended.

    Attributes:
        event_id: the event.
        topic: where its messages go.
        payload: the last message about it.
    """

    event_id: str
    topic: str
    payload: bytes


@dataclass(slots=True)
class Changes:
    """What is to be brought to the disk.

    Attributes:
        new: messages by their `seq`, rising.
        forgotten: numbers of messages on disk that are to go.
        ledger: the last message about each event that was told; None where it has ended.
        boots: when boots of the machine began, in seconds since 1970.
    """

    new: dict[int, SpooledMessage] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    ledger: dict[str, SpooledMessage | None] = field(default_factory=dict)
    boots: dict[str, float] = field(default_factory=dict)


class Shelf:
    """The file, open.

    Args:
        path: its folder is made where it is missing.
        max_messages: beyond this the oldest `level`s are discarded, then `update`s, `gap`s, and `event`s last.
        max_bytes: the same for topics and payloads together; the file may be a quarter larger.

    Attributes:
        seq: no number up to this one may be given again.
        dropped: messages discarded so far, by kind.
        boots: when boots of the machine began.
        open_ids: of the events that are open there.

    Raises:
        DatabaseError: it cannot be opened.
    """

    def __init__(self, path: Path, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._name = f"spool {path}"
        self.seq = 0
        self.open_ids: set[str] = set()
        self.dropped: dict[Kind, int] = {}
        self.boots: dict[str, float] = {}
        self._counters: dict[str, int] = {}
        self._counts: list[int] = []
        self._bytes = 0
        self._database = Database(path, _LAYOUT)
        try:
            self._take_stock()
        except DatabaseError:
            self._database.close()
            raise

    def __len__(self) -> int:
        """Messages that are there."""
        return sum(self._counts)

    def read(
        self, limit: int, *, after: int, newest: int, but_not_to: Collection[str]
    ) -> list[tuple[SpooledMessage, bool]]:
        """The oldest messages, and whether each is as it was written.

        Args:
            limit: at most so many.
            after: only those with a higher `seq`.
            newest: no `seq` is higher.
            but_not_to: topics to leave out.

        Raises:
            DatabaseCorruptError: the file is damaged: `begin_anew`.
            DatabaseError: it cannot be read.
        """
        rows = self._database.rows(
            f"SELECT seq, topic, payload, {_RANK}, boot, made_s, checksum FROM outbox WHERE seq > ? "
            f"AND topic NOT IN ({_places(but_not_to)}) ORDER BY seq LIMIT ?",
            (after, *but_not_to, limit),
        )
        found = []
        for *parts, checksum in rows:
            message = SpooledMessage(*parts)
            if not after < message.seq <= newest or tuple(map(type, parts)) != _PARTS:
                raise DatabaseCorruptError(f"{self._name}: is damaged (a page is not in order)")
            after = message.seq
            found.append((message, checksum is None or checksum == message.checksum))
        return found

    def ranks(self, seqs: Collection[int]) -> dict[int, int]:
        """The rank of each of these that is there. Raises what `read` does."""
        found: dict[int, int] = {}
        for some in _in_parts(seqs):
            found |= self._database.rows(f"SELECT seq, {_RANK} FROM outbox WHERE seq IN ({_places(some)})", some)
        return found

    def open_events(self) -> list[OpenEvent]:
        """Events that were begun and not ended, oldest first. Raises what `read` does."""
        rows = self._database.rows("SELECT event_id, topic, payload FROM open_events ORDER BY since")
        return [OpenEvent(*row) for row in rows]

    def write(
        self, changes: Changes, *, seq: int, dropped: Mapping[Kind, int], durable: bool, discards: int | None = None
    ) -> None:
        """Make all changes.

        Args:
            changes: what is to be done.
            seq: no number up to this one may be given again.
            dropped: messages discarded so far; what has no room now is added to `self.dropped`.
            durable: whether it must survive a power cut, and all before it.
            discards: at most so many of what has no room are discarded; None for all.

        Raises:
            DatabaseUnwritableError: the disk takes nothing. Nothing is changed then.
            DatabaseCorruptError: the file is damaged: `begin_anew`.
            DatabaseError: it cannot be written for another reason.
        """
        before = (list(self._counts), self._bytes, dict(self.dropped))
        self.dropped = dict(dropped)
        try:
            with self._database.transaction(durable=durable):
                self._delete(changes.forgotten)
                self._insert(list(changes.new.values()))
                self._make_room(discards)
                self._note_events(changes.ledger)
                if changes.boots:
                    self._database.change_each("INSERT OR REPLACE INTO boots VALUES (?, ?)", changes.boots.items())
                    self._database.change(
                        "DELETE FROM boots WHERE rowid <= (SELECT max(rowid) FROM boots) - ?", (_KEPT_BOOTS,)
                    )
                counters = {"seq": seq} | {f"dropped.{kind}": count for kind, count in self.dropped.items()}
                if counters != self._counters:
                    self._database.change_each("INSERT OR REPLACE INTO counters VALUES (?, ?)", counters.items())
        except BaseException:  # raised again: what was counted ahead is not on the disk
            self._counts, self._bytes, self.dropped = before
            raise
        self.seq, self._counters = seq, counters
        self.boots |= changes.boots
        for event_id, last in changes.ledger.items():
            (self.open_ids.discard if last is None else self.open_ids.add)(event_id)

    def trim(self) -> None:
        """Discard what has no room, where the bounds were lowered. Raises what `write` does.

        That may be most of it: it goes in parts, so that a full disk need not take a log of them all.
        """
        while self._is_too_full:
            self.write(Changes(), seq=self.seq, dropped=self.dropped, durable=False, discards=_DISCARDED_AT_ONCE)

    def begin_anew(self, reason: str) -> None:
        """Leave a damaged file behind, and go on in a fresh one with what can be read.

        Raises:
            DatabaseError: that cannot be done now.
        """
        self._database.begin_anew(reason)
        self._take_stock()

    def close(self) -> None:
        """Let go of the file. What waits stays in it."""
        self._database.close()

    def _take_stock(self) -> None:
        """See what is there."""
        self._counters = dict(self._database.rows("SELECT name, value FROM counters"))
        ((newest,),) = self._database.rows("SELECT coalesce(max(seq), 0) FROM outbox")
        # Of a damaged file the counters may be lost, or the messages; and numbers must not come twice.
        self.seq = max(newest, self._counters.get("seq", 0))
        self.dropped = {kind: self._counters.get(f"dropped.{kind}", 0) for kind in KINDS}
        self.boots = dict(self._database.rows("SELECT boot, utc_zero_s FROM boots"))
        self.open_ids = {event_id for (event_id,) in self._database.rows("SELECT event_id FROM open_events")}
        self._counts, self._bytes = [0] * len(KINDS), 0
        for rank, count, size in self._database.rows(f"SELECT {_RANK}, count(*), sum({_SIZE}) FROM outbox GROUP BY 1"):
            self._counts[rank] += count
            self._bytes += size

    # Inside a transaction:

    def _insert(self, messages: Sequence[SpooledMessage]) -> None:
        self._database.change_each(
            "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(one.seq, one.topic, one.payload, one.rank, one.boot, one.made_s, one.checksum) for one in messages],
        )
        for message in messages:
            self._counts[message.rank] += 1
            self._bytes += message.size_bytes

    def _delete(self, seqs: Collection[int]) -> None:
        for some in _in_parts(seqs):
            self._note_deleted(
                self._database.rows(
                    f"DELETE FROM outbox WHERE seq IN ({_places(some)}) RETURNING {_RANK}, {_SIZE}", some
                )
            )

    @property
    def _is_too_full(self) -> bool:
        return sum(self._counts) > self._max_messages or (self._bytes > self._max_bytes and sum(self._counts) > 0)

    def _make_room(self, at_most: int | None) -> None:
        """Discard what is too much: what matters least first, of that the oldest."""
        while self._is_too_full:
            total, n_least = sum(self._counts), sum(self._counts[:_EVENT])
            by_bytes = int(0.9 * (self._bytes - self._max_bytes) * total / max(1, self._bytes))  # by the mean, or less
            n_wanted = max(1, total - self._max_messages, by_bytes)
            where = f"rank < {_EVENT} ORDER BY rank, seq" if n_least else "TRUE ORDER BY seq"
            gone = self._database.rows(
                f"DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE {where} LIMIT ?) "
                f"RETURNING {_RANK}, {_SIZE}",
                (min(n_wanted, at_most or total),),
            )
            if not gone:
                raise DatabaseCorruptError(f"{self._name}: is damaged (messages are missing)")
            self._note_deleted(gone)
            for rank, _ in gone:
                self.dropped[KINDS[rank]] += 1
            if at_most is not None:
                break

    def _note_deleted(self, gone: Sequence[tuple[int, int]]) -> None:
        for rank, size in gone:
            self._counts[rank] -= 1
            self._bytes -= size

    def _note_events(self, ledger: Mapping[str, SpooledMessage | None]) -> None:
        for event_id, last in ledger.items():
            if last is None:
                self._database.change("DELETE FROM open_events WHERE event_id = ?", (event_id,))
            else:
                self._database.change(
                    "INSERT INTO open_events VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET payload = excluded.payload",
                    (event_id, last.seq, last.topic, last.payload),
                )


def _in_parts(seqs: Collection[int]) -> Iterator[Sequence[int]]:
    """The numbers, as many at once as a statement takes."""
    left = sorted(seqs)
    for begin in range(0, len(left), AT_ONCE):
        yield left[begin : begin + AT_ONCE]


def _places(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
